-- Traffic loops, air-quality stations and car parks. The format of this file: docs/pipelines.md.

CREATE TABLE raw (
  device_id          VARCHAR   NOT NULL,
  event_time         TIMESTAMP NOT NULL,
  seq                BIGINT    NOT NULL,
  kind               VARCHAR   NOT NULL CHECK (kind IN ('traffic', 'air-quality', 'parking')),
  abnormal           BOOLEAN,
  vehicle_count      INTEGER   CHECK (vehicle_count BETWEEN 0 AND 120),
  speed_kmh          DOUBLE    CHECK (speed_kmh BETWEEN 0 AND 130),
  lane_occupancy_pct DOUBLE    CHECK (lane_occupancy_pct BETWEEN 0 AND 100),
  heavy_pct          DOUBLE    CHECK (heavy_pct BETWEEN 0 AND 100),
  queue_m            INTEGER   CHECK (queue_m BETWEEN 0 AND 500),
  pm25_ugm3          DOUBLE    CHECK (pm25_ugm3 BETWEEN 0 AND 500),
  pm10_ugm3          DOUBLE    CHECK (pm10_ugm3 BETWEEN 0 AND 800),
  no2_ugm3           DOUBLE    CHECK (no2_ugm3 BETWEEN 0 AND 400),
  o3_ugm3            DOUBLE    CHECK (o3_ugm3 BETWEEN 0 AND 400),
  co_mgm3            DOUBLE    CHECK (co_mgm3 BETWEEN 0 AND 30),
  temperature_c      DOUBLE    CHECK (temperature_c BETWEEN -30 AND 50),
  humidity_pct       DOUBLE    CHECK (humidity_pct BETWEEN 0 AND 100),
  spaces_total       INTEGER   CHECK (spaces_total BETWEEN 20 AND 400),
  spaces_occupied    INTEGER   CHECK (spaces_occupied BETWEEN 0 AND 400),
  occupancy_pct      DOUBLE    CHECK (occupancy_pct BETWEEN 0 AND 100),
  entered            INTEGER   CHECK (entered BETWEEN 0 AND 20),
  departed           INTEGER   CHECK (departed BETWEEN 0 AND 20),
  stay_min           DOUBLE    CHECK (stay_min BETWEEN 1 AND 1440),
  latitude           DOUBLE    CHECK (latitude BETWEEN -90 AND 90),
  longitude          DOUBLE    CHECK (longitude BETWEEN -180 AND 180)
);

-- A reading is anomalous when the device says so, or when it leaves the limits that the device announced.
CREATE VIEW validated AS
SELECT
  raw.*,
  devices.area,
  devices.model,
  coalesce(raw.abnormal, false)
    OR coalesce(CASE raw.kind
                  WHEN 'traffic'     THEN raw.speed_kmh     NOT BETWEEN devices.limit_low AND devices.limit_high
                  WHEN 'air-quality' THEN raw.pm25_ugm3     NOT BETWEEN devices.limit_low AND devices.limit_high
                  ELSE                    raw.occupancy_pct NOT BETWEEN devices.limit_low AND devices.limit_high
                END, false) AS anomaly
FROM raw
LEFT JOIN devices ON raw.device_id = devices.device_id;

CREATE VIEW alerts AS
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

CREATE VIEW device_10s AS
SELECT
  device_id,
  kind,
  date_bin(INTERVAL '10 seconds', event_time) AS window_start,
  count(*)                                    AS records,
  sum(CASE WHEN anomaly THEN 1 ELSE 0 END)    AS anomalies,
  avg(speed_kmh)                              AS speed_kmh_avg,
  min(speed_kmh)                              AS speed_kmh_min,
  sum(vehicle_count)                          AS vehicles,
  avg(pm25_ugm3)                              AS pm25_ugm3_avg,
  max(pm25_ugm3)                              AS pm25_ugm3_max,
  max(occupancy_pct)                          AS occupancy_pct_max
FROM validated
GROUP BY device_id, kind, date_bin(INTERVAL '10 seconds', event_time);

CREATE VIEW area_30s AS
SELECT
  area,
  kind,
  date_bin(INTERVAL '30 seconds', event_time) AS window_start,
  count(*)                                    AS records,
  sum(CASE WHEN anomaly THEN 1 ELSE 0 END)    AS anomalies,
  avg(speed_kmh)                              AS speed_kmh_avg,
  stddev(speed_kmh)                           AS speed_kmh_stddev,
  avg(pm25_ugm3)                              AS pm25_ugm3_avg,
  avg(no2_ugm3)                               AS no2_ugm3_avg,
  avg(occupancy_pct)                          AS occupancy_pct_avg
FROM validated
GROUP BY area, kind, date_bin(INTERVAL '30 seconds', event_time);
