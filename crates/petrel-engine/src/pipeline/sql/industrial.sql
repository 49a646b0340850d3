-- Machines and production lines. The format of this file: docs/pipelines.md.

CREATE TABLE raw (
  device_id      VARCHAR   NOT NULL,
  event_time     TIMESTAMP NOT NULL,
  seq            BIGINT    NOT NULL,
  kind           VARCHAR   NOT NULL CHECK (kind IN ('machine', 'production')),
  abnormal       BOOLEAN,
  machine_type   VARCHAR   NOT NULL CHECK (machine_type IN ('cnc', 'press', 'robot', 'conveyor', 'compressor')),
  state          VARCHAR   CHECK (state IN ('running', 'idle', 'maintenance')),
  temperature_c  DOUBLE    CHECK (temperature_c BETWEEN 0 AND 180),
  vibration_mm_s DOUBLE    CHECK (vibration_mm_s BETWEEN 0 AND 50),
  pressure_bar   DOUBLE    CHECK (pressure_bar BETWEEN 0 AND 400),
  speed_rpm      INTEGER   CHECK (speed_rpm BETWEEN 0 AND 20000),
  power_kw       DOUBLE    CHECK (power_kw BETWEEN 0 AND 200),
  run_hours      DOUBLE    CHECK (run_hours BETWEEN 0 AND 100000),
  line           VARCHAR,
  order_id       BIGINT    CHECK (order_id >= 1),
  units_ok       INTEGER   CHECK (units_ok BETWEEN 0 AND 50),
  units_rejected INTEGER   CHECK (units_rejected BETWEEN 0 AND 50),
  cycle_time_s   DOUBLE    CHECK (cycle_time_s BETWEEN 0.1 AND 120),
  oee_pct        DOUBLE    CHECK (oee_pct BETWEEN 0 AND 100),
  energy_kwh     DOUBLE    CHECK (energy_kwh BETWEEN 0 AND 50)
);

-- A reading is anomalous when the device says so, or when it leaves the limits that the device announced.
CREATE VIEW validated AS
SELECT
  raw.*,
  devices.area,
  devices.model,
  coalesce(raw.abnormal, false)
    OR coalesce(CASE raw.kind
                  WHEN 'machine' THEN raw.vibration_mm_s NOT BETWEEN devices.limit_low AND devices.limit_high
                  ELSE                raw.cycle_time_s   NOT BETWEEN devices.limit_low AND devices.limit_high
                END, false) AS anomaly
FROM raw
LEFT JOIN devices ON raw.device_id = devices.device_id;

CREATE VIEW alerts AS
SELECT
  device_id, event_time, seq, kind, area, machine_type,
  CASE kind WHEN 'machine' THEN 'vibration above its limit' ELSE 'cycle outside its limits' END AS alert,
  CASE kind WHEN 'machine' THEN vibration_mm_s ELSE cycle_time_s END AS value
FROM validated
WHERE abnormal;

CREATE VIEW device_10s AS
SELECT
  device_id,
  kind,
  machine_type,
  date_bin(INTERVAL '10 seconds', event_time) AS window_start,
  count(*)                                    AS records,
  sum(CASE WHEN anomaly THEN 1 ELSE 0 END)    AS anomalies,
  avg(vibration_mm_s)                         AS vibration_mm_s_avg,
  max(vibration_mm_s)                         AS vibration_mm_s_max,
  max(temperature_c)                          AS temperature_c_max,
  avg(power_kw)                               AS power_kw_avg,
  sum(units_ok)                               AS units_ok,
  sum(units_rejected)                         AS units_rejected
FROM validated
GROUP BY device_id, kind, machine_type, date_bin(INTERVAL '10 seconds', event_time);

CREATE VIEW area_30s AS
SELECT
  area,
  machine_type,
  date_bin(INTERVAL '30 seconds', event_time) AS window_start,
  count(*)                                    AS records,
  sum(CASE WHEN anomaly THEN 1 ELSE 0 END)    AS anomalies,
  avg(vibration_mm_s)                         AS vibration_mm_s_avg,
  stddev(vibration_mm_s)                      AS vibration_mm_s_stddev,
  sum(units_ok)                               AS units_ok,
  sum(units_rejected)                         AS units_rejected,
  avg(oee_pct)                                AS oee_pct_avg
FROM validated
GROUP BY area, machine_type, date_bin(INTERVAL '30 seconds', event_time);
