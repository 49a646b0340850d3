"""Good records of each domain for tests to change, one of each kind."""

EVENT_TIME = 1_795_000_020_000
"""A whole number of half minutes, so that windows of 10 and 30 s begin at it."""

RECORDS = {
    "smart-city": [
        {
            "kind": "traffic", "vehicle_count": 37, "speed_kmh": 48.2, "lane_occupancy_pct": 23.4, "heavy_pct": 8.1,
            "queue_m": 12, "latitude": 46.19283, "longitude": 6.16682,
        },
        {
            "kind": "air-quality", "pm25_ugm3": 12.5, "pm10_ugm3": 20.0, "no2_ugm3": 31.5, "o3_ugm3": 60.2, "co_mgm3": 0.41,
            "temperature_c": 12.5, "humidity_pct": 71.0,
        },
        {
            "kind": "parking", "spaces_total": 200, "spaces_occupied": 150, "occupancy_pct": 75.0, "entered": 3, "departed": 1,
            "stay_min": 42.5, "latitude": 46.2, "longitude": 6.1,
        },
    ],
    "healthcare": [
        {
            "kind": "vital-signs", "patient_id": "p00001", "heart_rate_bpm": 72.5, "spo2_pct": 97.5, "systolic_mmhg": 121,
            "diastolic_mmhg": 78, "respiration_rpm": 14.5, "temperature_c": 36.71, "battery_pct": 81,
        },
        {
            "kind": "ecg", "patient_id": "p00002", "heart_rate_bpm": 66.0, "lead_name": "II", "rr_ms": 909, "qrs_ms": 92,
            "st_mv": 0.021, "samples_uv": [0, 40, 90, 20, -80, 1100, -210, 10, 60, 180, 90, 5],
        },
    ],
    "industrial": [
        {
            "kind": "machine", "machine_type": "cnc", "state": "running", "temperature_c": 61.2, "vibration_mm_s": 2.31,
            "pressure_bar": 92.5, "speed_rpm": 6400, "power_kw": 18.42, "run_hours": 1220.5,
        },
        {
            "kind": "production", "machine_type": "press", "line": "line-03", "order_id": 17, "units_ok": 5, "units_rejected": 1,
            "cycle_time_s": 4.21, "oee_pct": 81.5, "energy_kwh": 0.412,
        },
    ],
}  # fmt: skip
DOMAINS = list(RECORDS)


def record(domain, index=0, **changes):
    """A good record of a domain (of its kind number `index`), with changes; a field that is changed to None is left out."""
    chosen = RECORDS[domain][index]
    whole = {"device_id": f"{chosen['kind']}-00001", "domain": domain, "event_time": EVENT_TIME, "seq": 1, "abnormal": False}
    whole |= chosen | changes
    return {field: value for field, value in whole.items() if value is not None}
