-- Vital signs and electrocardiograms. What a domain file holds: docs/spark-jobs.md.

-- One row for each message of the topic. `malformed` is the text of a message that could not be read in full.
CREATE OR REPLACE TEMPORARY VIEW parsed AS
SELECT value, record.* FROM (
  SELECT
    value,
    from_json(value, '
      device_id       STRING,
      event_time      BIGINT,
      seq             BIGINT,
      kind            STRING,
      abnormal        BOOLEAN,
      patient_id      STRING,
      heart_rate_bpm  DOUBLE,
      spo2_pct        DOUBLE,
      systolic_mmhg   INT,
      diastolic_mmhg  INT,
      respiration_rpm DOUBLE,
      temperature_c   DOUBLE,
      battery_pct     INT,
      lead_name       STRING,
      rr_ms           INT,
      qrs_ms          INT,
      st_mv           DOUBLE,
      malformed       STRING
    ', map('columnNameOfCorruptRecord', 'malformed', 'allowNonNumericNumbers', 'false')) AS record
  FROM incoming
);

-- What is wrong with it: `reason: field: expected`, NULL when nothing is. An absent value passes its check, as in SQL.
CREATE OR REPLACE TEMPORARY VIEW judged AS
SELECT
  *,
  CASE
    WHEN malformed IS NOT NULL AND device_id IS NULL  THEN 'malformed-json: record: one JSON object'
    WHEN malformed IS NOT NULL                        THEN 'wrong-type: record: fields of the types in docs/records.md'
    WHEN device_id IS NULL                            THEN 'missing-field: device_id: a string'
    WHEN event_time IS NULL                           THEN 'missing-field: event_time: milliseconds since the Unix epoch'
    WHEN seq IS NULL                                  THEN 'missing-field: seq: an integer'
    WHEN kind IS NULL                                 THEN 'missing-field: kind: a string'
    WHEN patient_id IS NULL                           THEN 'missing-field: patient_id: a string'
    WHEN length(device_id) NOT BETWEEN 1 AND 128      THEN 'out-of-bounds: device_id: 1 to 128 characters'
    WHEN seq < 1                                      THEN 'out-of-bounds: seq: at least 1'
    WHEN event_time < 0                               THEN 'ancient-timestamp: event_time: after 1970'
    WHEN event_time > unix_millis(current_timestamp()) + 300000
                                                      THEN 'future-timestamp: event_time: at most 5 minutes ahead'
    WHEN kind NOT IN ('vital-signs', 'ecg')           THEN 'check: kind: vital-signs or ecg'
    WHEN heart_rate_bpm NOT BETWEEN 25 AND 220        THEN 'check: heart_rate_bpm: 25 to 220'
    WHEN spo2_pct NOT BETWEEN 60 AND 100              THEN 'check: spo2_pct: 60 to 100'
    WHEN systolic_mmhg NOT BETWEEN 50 AND 240         THEN 'check: systolic_mmhg: 50 to 240'
    WHEN diastolic_mmhg NOT BETWEEN 30 AND 150        THEN 'check: diastolic_mmhg: 30 to 150'
    WHEN respiration_rpm NOT BETWEEN 4 AND 50         THEN 'check: respiration_rpm: 4 to 50'
    WHEN temperature_c NOT BETWEEN 33 AND 42.5        THEN 'check: temperature_c: 33 to 42.5'
    WHEN battery_pct NOT BETWEEN 0 AND 100            THEN 'check: battery_pct: 0 to 100'
    WHEN rr_ms NOT BETWEEN 270 AND 2400               THEN 'check: rr_ms: 270 to 2400'
    WHEN qrs_ms NOT BETWEEN 60 AND 200                THEN 'check: qrs_ms: 60 to 200'
    WHEN st_mv NOT BETWEEN -1 AND 1                   THEN 'check: st_mv: -1 to 1'
  END AS fault
FROM parsed;

-- A reading is anomalous when the device says so, when the heart rate leaves the device's limits, or when one of the
-- usual bedside thresholds is crossed.
CREATE OR REPLACE TEMPORARY VIEW validated AS
SELECT /*+ BROADCAST(devices) */
  accepted.*,
  devices.area,
  devices.model,
  coalesce(abnormal, false)
    OR coalesce(heart_rate_bpm NOT BETWEEN limit_low AND limit_high, false)
    OR coalesce(spo2_pct < 92, false)
    OR coalesce(systolic_mmhg < 90, false)
    OR coalesce(temperature_c > 38.5, false)
    OR coalesce(abs(st_mv) > 0.2, false) AS anomaly
FROM accepted
LEFT JOIN devices ON accepted.device_id = devices.device_id;

CREATE OR REPLACE TEMPORARY VIEW alerts AS
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

CREATE OR REPLACE TEMPORARY VIEW device_10s AS
SELECT
  device_id,
  kind,
  window.start             AS window_start,
  count(*)                 AS records,
  count_if(anomaly)        AS anomalies,
  avg(heart_rate_bpm)      AS heart_rate_bpm_avg,
  min(heart_rate_bpm)      AS heart_rate_bpm_min,
  max(heart_rate_bpm)      AS heart_rate_bpm_max,
  min(spo2_pct)            AS spo2_pct_min,
  max(temperature_c)       AS temperature_c_max,
  avg(rr_ms)               AS rr_ms_avg,
  max(abs(st_mv))          AS st_mv_max
FROM validated
GROUP BY device_id, kind, window(event_time, '10 seconds');

CREATE OR REPLACE TEMPORARY VIEW area_30s AS
SELECT
  area,
  kind,
  window.start             AS window_start,
  count(*)                 AS records,
  count_if(anomaly)        AS anomalies,
  avg(heart_rate_bpm)      AS heart_rate_bpm_avg,
  stddev(heart_rate_bpm)   AS heart_rate_bpm_stddev,
  avg(spo2_pct)            AS spo2_pct_avg,
  avg(temperature_c)       AS temperature_c_avg
FROM validated
GROUP BY area, kind, window(event_time, '30 seconds');
