-- Machines and production lines. What a domain file holds: docs/spark-jobs.md.

-- One row for each message of the topic. `malformed` is the text of a message that could not be read in full.
CREATE OR REPLACE TEMPORARY VIEW parsed AS
SELECT value, record.* FROM (
  SELECT
    value,
    from_json(value, '
      device_id      STRING,
      event_time     BIGINT,
      seq            BIGINT,
      kind           STRING,
      abnormal       BOOLEAN,
      machine_type   STRING,
      state          STRING,
      temperature_c  DOUBLE,
      vibration_mm_s DOUBLE,
      pressure_bar   DOUBLE,
      speed_rpm      INT,
      power_kw       DOUBLE,
      run_hours      DOUBLE,
      line           STRING,
      order_id       BIGINT,
      units_ok       INT,
      units_rejected INT,
      cycle_time_s   DOUBLE,
      oee_pct        DOUBLE,
      energy_kwh     DOUBLE,
      malformed      STRING
    ', map('columnNameOfCorruptRecord', 'malformed', 'allowNonNumericNumbers', 'false')) AS record
  FROM incoming
);

-- What is wrong with it: `reason: field: expected`, NULL when nothing is. An absent value passes its check, as in SQL.
CREATE OR REPLACE TEMPORARY VIEW judged AS
SELECT
  *,
  CASE
    WHEN malformed IS NOT NULL AND device_id IS NULL      THEN 'malformed-json: record: one JSON object'
    WHEN malformed IS NOT NULL                            THEN 'wrong-type: record: fields of the types in docs/records.md'
    WHEN device_id IS NULL                                THEN 'missing-field: device_id: a string'
    WHEN event_time IS NULL                               THEN 'missing-field: event_time: milliseconds since the Unix epoch'
    WHEN seq IS NULL                                      THEN 'missing-field: seq: an integer'
    WHEN kind IS NULL                                     THEN 'missing-field: kind: a string'
    WHEN machine_type IS NULL                             THEN 'missing-field: machine_type: a string'
    WHEN length(device_id) NOT BETWEEN 1 AND 128          THEN 'out-of-bounds: device_id: 1 to 128 characters'
    WHEN seq < 1                                          THEN 'out-of-bounds: seq: at least 1'
    WHEN event_time < 0                                   THEN 'ancient-timestamp: event_time: after 1970'
    WHEN event_time > unix_millis(current_timestamp()) + 300000
                                                          THEN 'future-timestamp: event_time: at most 5 minutes ahead'
    WHEN kind NOT IN ('machine', 'production')            THEN 'check: kind: machine or production'
    WHEN machine_type NOT IN ('cnc', 'press', 'robot', 'conveyor', 'compressor')
                                                          THEN 'check: machine_type: cnc, press, robot, conveyor or compressor'
    WHEN state NOT IN ('running', 'idle', 'maintenance')  THEN 'check: state: running, idle or maintenance'
    WHEN temperature_c NOT BETWEEN 0 AND 180              THEN 'check: temperature_c: 0 to 180'
    WHEN vibration_mm_s NOT BETWEEN 0 AND 50              THEN 'check: vibration_mm_s: 0 to 50'
    WHEN pressure_bar NOT BETWEEN 0 AND 400               THEN 'check: pressure_bar: 0 to 400'
    WHEN speed_rpm NOT BETWEEN 0 AND 20000                THEN 'check: speed_rpm: 0 to 20000'
    WHEN power_kw NOT BETWEEN 0 AND 200                   THEN 'check: power_kw: 0 to 200'
    WHEN run_hours NOT BETWEEN 0 AND 100000               THEN 'check: run_hours: 0 to 100000'
    WHEN order_id < 1                                     THEN 'check: order_id: at least 1'
    WHEN units_ok NOT BETWEEN 0 AND 50                    THEN 'check: units_ok: 0 to 50'
    WHEN units_rejected NOT BETWEEN 0 AND 50              THEN 'check: units_rejected: 0 to 50'
    WHEN cycle_time_s NOT BETWEEN 0.1 AND 120             THEN 'check: cycle_time_s: 0.1 to 120'
    WHEN oee_pct NOT BETWEEN 0 AND 100                    THEN 'check: oee_pct: 0 to 100'
    WHEN energy_kwh NOT BETWEEN 0 AND 50                  THEN 'check: energy_kwh: 0 to 50'
  END AS fault
FROM parsed;

-- A reading is anomalous when the device says so, or when it leaves the limits that the device announced.
CREATE OR REPLACE TEMPORARY VIEW validated AS
SELECT /*+ BROADCAST(devices) */
  accepted.*,
  devices.area,
  devices.model,
  coalesce(abnormal, false)
    OR coalesce(CASE accepted.kind
                  WHEN 'machine' THEN vibration_mm_s NOT BETWEEN limit_low AND limit_high
                  ELSE                cycle_time_s   NOT BETWEEN limit_low AND limit_high
                END, false) AS anomaly
FROM accepted
LEFT JOIN devices ON accepted.device_id = devices.device_id;

CREATE OR REPLACE TEMPORARY VIEW alerts AS
SELECT
  device_id, event_time, seq, kind, area, machine_type,
  CASE kind WHEN 'machine' THEN 'vibration above its limit' ELSE 'cycle outside its limits' END AS alert,
  CASE kind WHEN 'machine' THEN vibration_mm_s ELSE cycle_time_s END AS value
FROM validated
WHERE abnormal;

CREATE OR REPLACE TEMPORARY VIEW device_10s AS
SELECT
  device_id,
  kind,
  machine_type,
  window.start             AS window_start,
  count(*)                 AS records,
  count_if(anomaly)        AS anomalies,
  avg(vibration_mm_s)      AS vibration_mm_s_avg,
  max(vibration_mm_s)      AS vibration_mm_s_max,
  max(temperature_c)       AS temperature_c_max,
  avg(power_kw)            AS power_kw_avg,
  sum(units_ok)            AS units_ok,
  sum(units_rejected)      AS units_rejected
FROM validated
GROUP BY device_id, kind, machine_type, window(event_time, '10 seconds');

CREATE OR REPLACE TEMPORARY VIEW area_30s AS
SELECT
  area,
  machine_type,
  window.start             AS window_start,
  count(*)                 AS records,
  count_if(anomaly)        AS anomalies,
  avg(vibration_mm_s)      AS vibration_mm_s_avg,
  stddev(vibration_mm_s)   AS vibration_mm_s_stddev,
  sum(units_ok)            AS units_ok,
  sum(units_rejected)      AS units_rejected,
  avg(oee_pct)             AS oee_pct_avg
FROM validated
GROUP BY area, machine_type, window(event_time, '30 seconds');
