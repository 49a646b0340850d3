-- Traffic loops, air-quality stations and car parks. What a domain file holds: docs/spark-jobs.md.

-- One row for each message of the topic. `malformed` is the text of a message that could not be read in full.
CREATE OR REPLACE TEMPORARY VIEW parsed AS
SELECT value, record.* FROM (
  SELECT
    value,
    from_json(value, '
      device_id          STRING,
      event_time         BIGINT,
      seq                BIGINT,
      kind               STRING,
      abnormal           BOOLEAN,
      vehicle_count      INT,
      speed_kmh          DOUBLE,
      lane_occupancy_pct DOUBLE,
      heavy_pct          DOUBLE,
      queue_m            INT,
      pm25_ugm3          DOUBLE,
      pm10_ugm3          DOUBLE,
      no2_ugm3           DOUBLE,
      o3_ugm3            DOUBLE,
      co_mgm3            DOUBLE,
      temperature_c      DOUBLE,
      humidity_pct       DOUBLE,
      spaces_total       INT,
      spaces_occupied    INT,
      occupancy_pct      DOUBLE,
      entered            INT,
      departed           INT,
      stay_min           DOUBLE,
      latitude           DOUBLE,
      longitude          DOUBLE,
      malformed          STRING
    ', map('columnNameOfCorruptRecord', 'malformed', 'allowNonNumericNumbers', 'false')) AS record
  FROM incoming
);

-- What is wrong with it: `reason: field: expected`, NULL when nothing is. An absent value passes its check, as in SQL.
CREATE OR REPLACE TEMPORARY VIEW judged AS
SELECT
  *,
  CASE
    WHEN malformed IS NOT NULL AND device_id IS NULL        THEN 'malformed-json: record: one JSON object'
    WHEN malformed IS NOT NULL                              THEN 'wrong-type: record: fields of the types in docs/records.md'
    WHEN device_id IS NULL                                  THEN 'missing-field: device_id: a string'
    WHEN event_time IS NULL                                 THEN 'missing-field: event_time: milliseconds since the Unix epoch'
    WHEN seq IS NULL                                        THEN 'missing-field: seq: an integer'
    WHEN kind IS NULL                                       THEN 'missing-field: kind: a string'
    WHEN length(device_id) NOT BETWEEN 1 AND 128            THEN 'out-of-bounds: device_id: 1 to 128 characters'
    WHEN seq < 1                                            THEN 'out-of-bounds: seq: at least 1'
    WHEN event_time < 0                                     THEN 'ancient-timestamp: event_time: after 1970'
    WHEN event_time > unix_millis(current_timestamp()) + 300000
                                                            THEN 'future-timestamp: event_time: at most 5 minutes ahead'
    WHEN kind NOT IN ('traffic', 'air-quality', 'parking')  THEN 'check: kind: traffic, air-quality or parking'
    WHEN vehicle_count NOT BETWEEN 0 AND 120                THEN 'check: vehicle_count: 0 to 120'
    WHEN speed_kmh NOT BETWEEN 0 AND 130                    THEN 'check: speed_kmh: 0 to 130'
    WHEN lane_occupancy_pct NOT BETWEEN 0 AND 100           THEN 'check: lane_occupancy_pct: 0 to 100'
    WHEN heavy_pct NOT BETWEEN 0 AND 100                    THEN 'check: heavy_pct: 0 to 100'
    WHEN queue_m NOT BETWEEN 0 AND 500                      THEN 'check: queue_m: 0 to 500'
    WHEN pm25_ugm3 NOT BETWEEN 0 AND 500                    THEN 'check: pm25_ugm3: 0 to 500'
    WHEN pm10_ugm3 NOT BETWEEN 0 AND 800                    THEN 'check: pm10_ugm3: 0 to 800'
    WHEN no2_ugm3 NOT BETWEEN 0 AND 400                     THEN 'check: no2_ugm3: 0 to 400'
    WHEN o3_ugm3 NOT BETWEEN 0 AND 400                      THEN 'check: o3_ugm3: 0 to 400'
    WHEN co_mgm3 NOT BETWEEN 0 AND 30                       THEN 'check: co_mgm3: 0 to 30'
    WHEN temperature_c NOT BETWEEN -30 AND 50               THEN 'check: temperature_c: -30 to 50'
    WHEN humidity_pct NOT BETWEEN 0 AND 100                 THEN 'check: humidity_pct: 0 to 100'
    WHEN spaces_total NOT BETWEEN 20 AND 400                THEN 'check: spaces_total: 20 to 400'
    WHEN spaces_occupied NOT BETWEEN 0 AND 400              THEN 'check: spaces_occupied: 0 to 400'
    WHEN occupancy_pct NOT BETWEEN 0 AND 100                THEN 'check: occupancy_pct: 0 to 100'
    WHEN entered NOT BETWEEN 0 AND 20                       THEN 'check: entered: 0 to 20'
    WHEN departed NOT BETWEEN 0 AND 20                      THEN 'check: departed: 0 to 20'
    WHEN stay_min NOT BETWEEN 1 AND 1440                    THEN 'check: stay_min: 1 to 1440'
    WHEN latitude NOT BETWEEN -90 AND 90                    THEN 'check: latitude: -90 to 90'
    WHEN longitude NOT BETWEEN -180 AND 180                 THEN 'check: longitude: -180 to 180'
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
                  WHEN 'traffic'     THEN speed_kmh     NOT BETWEEN limit_low AND limit_high
                  WHEN 'air-quality' THEN pm25_ugm3     NOT BETWEEN limit_low AND limit_high
                  ELSE                    occupancy_pct NOT BETWEEN limit_low AND limit_high
                END, false) AS anomaly
FROM accepted
LEFT JOIN devices ON accepted.device_id = devices.device_id;

CREATE OR REPLACE TEMPORARY VIEW alerts AS
SELECT
  device_id, event_time, seq, kind, area,
  CASE kind
    WHEN 'traffic'     THEN 'traffic stands'
    WHEN 'air-quality' THEN 'pollution episode'
    ELSE                    'car park full'
  END AS alert,
  CASE kind WHEN 'traffic' THEN speed_kmh WHEN 'air-quality' THEN pm25_ugm3 ELSE occupancy_pct END AS value
FROM validated
WHERE abnormal;

CREATE OR REPLACE TEMPORARY VIEW device_10s AS
SELECT
  device_id,
  kind,
  window.start             AS window_start,
  count(*)                 AS records,
  count_if(anomaly)        AS anomalies,
  avg(speed_kmh)           AS speed_kmh_avg,
  min(speed_kmh)           AS speed_kmh_min,
  sum(vehicle_count)       AS vehicles,
  avg(pm25_ugm3)           AS pm25_ugm3_avg,
  max(pm25_ugm3)           AS pm25_ugm3_max,
  max(occupancy_pct)       AS occupancy_pct_max
FROM validated
GROUP BY device_id, kind, window(event_time, '10 seconds');

CREATE OR REPLACE TEMPORARY VIEW area_30s AS
SELECT
  area,
  kind,
  window.start             AS window_start,
  count(*)                 AS records,
  count_if(anomaly)        AS anomalies,
  avg(speed_kmh)           AS speed_kmh_avg,
  stddev(speed_kmh)        AS speed_kmh_stddev,
  avg(pm25_ugm3)           AS pm25_ugm3_avg,
  avg(no2_ugm3)            AS no2_ugm3_avg,
  avg(occupancy_pct)       AS occupancy_pct_avg
FROM validated
GROUP BY area, kind, window(event_time, '30 seconds');
