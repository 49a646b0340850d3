-- Vital signs and electrocardiograms. The format of this file: docs/pipelines.md.

CREATE TABLE raw (
  device_id       VARCHAR   NOT NULL,
  event_time      TIMESTAMP NOT NULL,
  seq             BIGINT    NOT NULL,
  kind            VARCHAR   NOT NULL CHECK (kind IN ('vital-signs', 'ecg')),
  abnormal        BOOLEAN,
  patient_id      VARCHAR   NOT NULL,
  heart_rate_bpm  DOUBLE    CHECK (heart_rate_bpm BETWEEN 25 AND 220),
  spo2_pct        DOUBLE    CHECK (spo2_pct BETWEEN 60 AND 100),
  systolic_mmhg   INTEGER   CHECK (systolic_mmhg BETWEEN 50 AND 240),
  diastolic_mmhg  INTEGER   CHECK (diastolic_mmhg BETWEEN 30 AND 150),
  respiration_rpm DOUBLE    CHECK (respiration_rpm BETWEEN 4 AND 50),
  temperature_c   DOUBLE    CHECK (temperature_c BETWEEN 33 AND 42.5),
  battery_pct     INTEGER   CHECK (battery_pct BETWEEN 0 AND 100),
  lead_name       VARCHAR,
  rr_ms           INTEGER   CHECK (rr_ms BETWEEN 270 AND 2400),
  qrs_ms          INTEGER   CHECK (qrs_ms BETWEEN 60 AND 200),
  st_mv           DOUBLE    CHECK (st_mv BETWEEN -1 AND 1)
);

-- A reading is anomalous when the device says so, when the heart rate leaves the device's limits, or when one of the
-- usual bedside thresholds is crossed.
CREATE VIEW validated AS
SELECT
  raw.*,
  devices.area,
  devices.model,
  coalesce(raw.abnormal, false)
    OR coalesce(raw.heart_rate_bpm NOT BETWEEN devices.limit_low AND devices.limit_high, false)
    OR coalesce(raw.spo2_pct < 92, false)
    OR coalesce(raw.systolic_mmhg < 90, false)
    OR coalesce(raw.temperature_c > 38.5, false)
    OR coalesce(abs(raw.st_mv) > 0.2, false) AS anomaly
FROM raw
LEFT JOIN devices ON raw.device_id = devices.device_id;

CREATE VIEW alerts AS
SELECT
  device_id, event_time, seq, kind, area, patient_id,
  CASE
    WHEN spo2_pct < 92          THEN 'low oxygen saturation'
    WHEN systolic_mmhg < 90     THEN 'low blood pressure'
    WHEN heart_rate_bpm > 125   THEN 'tachycardia'
    WHEN heart_rate_bpm < 45    THEN 'bradycardia'
    WHEN abs(st_mv) > 0.2       THEN 'ST deviation'
    ELSE                             'abnormal reading'
  END AS alert,
  heart_rate_bpm AS value
FROM validated
WHERE abnormal;

CREATE VIEW device_10s AS
SELECT
  device_id,
  kind,
  date_bin(INTERVAL '10 seconds', event_time) AS window_start,
  count(*)                                    AS records,
  sum(CASE WHEN anomaly THEN 1 ELSE 0 END)    AS anomalies,
  avg(heart_rate_bpm)                         AS heart_rate_bpm_avg,
  min(heart_rate_bpm)                         AS heart_rate_bpm_min,
  max(heart_rate_bpm)                         AS heart_rate_bpm_max,
  min(spo2_pct)                               AS spo2_pct_min,
  max(temperature_c)                          AS temperature_c_max,
  avg(rr_ms)                                  AS rr_ms_avg,
  max(abs(st_mv))                             AS st_mv_max
FROM validated
GROUP BY device_id, kind, date_bin(INTERVAL '10 seconds', event_time);

CREATE VIEW area_30s AS
SELECT
  area,
  kind,
  date_bin(INTERVAL '30 seconds', event_time) AS window_start,
  count(*)                                    AS records,
  sum(CASE WHEN anomaly THEN 1 ELSE 0 END)    AS anomalies,
  avg(heart_rate_bpm)                         AS heart_rate_bpm_avg,
  stddev(heart_rate_bpm)                      AS heart_rate_bpm_stddev,
  avg(spo2_pct)                               AS spo2_pct_avg,
  avg(temperature_c)                          AS temperature_c_avg
FROM validated
GROUP BY area, kind, date_bin(INTERVAL '30 seconds', event_time);
