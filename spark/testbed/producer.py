"""Seeded records of a domain into Kafka, with known identities: every device counts its ``seq`` from 1.

Shape and ranges of the records are those of ``docs/records.md``; their values are drawn, not simulated. (``petrel fleet`` has
the simulated devices; this producer needs no gateway.)
"""

from __future__ import annotations

import json
import random
import threading
import time
from dataclasses import dataclass

from kafka import KafkaProducer

from .processes import TestbedError

# kind: (share of the devices, its fields: name, usual least and greatest value, decimals)
Field = tuple[str, float, float, int]
KINDS: dict[str, dict[str, tuple[int, list[Field]]]] = {
    "smart-city": {
        "traffic": (
            5,
            [("vehicle_count", 0, 95, 0), ("speed_kmh", 20, 70, 1), ("lane_occupancy_pct", 0, 60, 1)]
            + [("heavy_pct", 2, 20, 1), ("queue_m", 0, 40, 0), ("latitude", 45.9, 46.5, 5), ("longitude", 5.9, 6.5, 5)],
        ),
        "air-quality": (
            3,
            [("pm25_ugm3", 4, 40, 1), ("pm10_ugm3", 40, 80, 1), ("no2_ugm3", 5, 60, 1), ("o3_ugm3", 10, 110, 1)]
            + [("co_mgm3", 0.2, 1.5, 2), ("temperature_c", 2, 28, 1), ("humidity_pct", 30, 90, 1)],
        ),
        "parking": (
            2,
            [("spaces_total", 300, 300, 0), ("spaces_occupied", 20, 280, 0), ("occupancy_pct", 6, 94, 1)]
            + [("entered", 0, 12, 0), ("departed", 0, 12, 0), ("stay_min", 20, 120, 1)]
            + [("latitude", 45.9, 46.5, 5), ("longitude", 5.9, 6.5, 5)],
        ),
    },
    "healthcare": {
        "vital-signs": (
            8,
            [("heart_rate_bpm", 55, 105, 1), ("spo2_pct", 93, 99, 1), ("systolic_mmhg", 100, 150, 0)]
            + [("diastolic_mmhg", 60, 95, 0), ("respiration_rpm", 11, 22, 1), ("temperature_c", 36, 37.6, 2)]
            + [("battery_pct", 10, 100, 0)],
        ),
        "ecg": (2, [("heart_rate_bpm", 55, 105, 1), ("rr_ms", 570, 1090, 0), ("qrs_ms", 75, 115, 0), ("st_mv", -0.1, 0.1, 3)]),
    },
    "industrial": {
        "machine": (
            7,
            [("temperature_c", 30, 90, 1), ("vibration_mm_s", 0.5, 4.0, 2), ("pressure_bar", 20, 250, 2)]
            + [("speed_rpm", 500, 9000, 0), ("power_kw", 2, 80, 2), ("run_hours", 100, 40000, 1)],
        ),
        "production": (
            3,
            [("order_id", 1, 900, 0), ("units_ok", 1, 20, 0), ("units_rejected", 0, 2, 0), ("cycle_time_s", 4, 40, 2)]
            + [("oee_pct", 55, 95, 1), ("energy_kwh", 0.2, 6, 3)],
        ),
    },
}
AREAS = {"smart-city": "district", "healthcare": "ward", "industrial": "hall"}
ABNORMAL_SHARE = 0.02
DELIVERY_MS = 600_000


@dataclass
class Device:
    """A device that sends records."""

    device_id: str
    kind: str
    fields: list[Field]
    fixed: dict[str, str]
    seq: int = 0


def fleet(domain: str, count: int) -> list[Device]:
    """The devices of a domain; the same ones for the same count."""
    if domain not in KINDS:
        raise TestbedError(f"the domain is `{domain}`, expected one of {', '.join(KINDS)}")
    shares = [kind for kind, (share, _) in KINDS[domain].items() for _ in range(share)]
    devices = []
    for index in range(count):
        kind = shares[index % len(shares)]
        fixed = {}
        if domain == "healthcare":
            fixed["patient_id"] = f"p{index:05d}"
        if kind == "ecg":
            fixed["lead_name"] = ("I", "II", "V1", "V5")[index % 4]
        if domain == "industrial":
            fixed["machine_type"] = ("cnc", "press", "robot", "conveyor", "compressor")[index % 5]
        if kind == "machine":
            fixed["state"] = "running"
        if kind == "production":
            fixed["line"] = f"line-{index % 8 + 1:02d}"
        devices.append(Device(f"{kind}-{index:05d}", kind, KINDS[domain][kind][1], fixed))
    return devices


class Producer:
    """Sends seeded records; ``sent`` says up to which ``seq`` each device has come. A context manager that flushes."""

    def __init__(self, brokers: str, domain: str, seed: int, devices: int = 50) -> None:
        self.domain = domain
        self.topic = f"iot-{domain}-raw"
        self._devices = fleet(domain, devices)
        self._draws = random.Random(seed)
        self._failures: list[BaseException] = []
        # Idempotent and patient, so that a broker that restarts makes no record vanish or come twice.
        self._client = KafkaProducer(
            bootstrap_servers=brokers,
            enable_idempotence=True,
            acks="all",
            linger_ms=20,
            delivery_timeout_ms=DELIVERY_MS,
            max_block_ms=DELIVERY_MS,
            request_timeout_ms=15_000,
            reconnect_backoff_max_ms=1_000,
        )
        self._thread: threading.Thread | None = None
        self._stop = threading.Event()

    def __enter__(self) -> Producer:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        self._client.close(timeout=60 if kind is None else 1)

    @property
    def sent(self) -> dict[str, int]:
        """Last ``seq`` of each device that has sent something."""
        return {device.device_id: device.seq for device in self._devices if device.seq}

    @property
    def count(self) -> int:
        """Records so far."""
        return sum(device.seq for device in self._devices)

    def announce(self) -> None:
        """Sends the devices' metadata."""
        for index, device in enumerate(self._devices):
            name, low, high, _ = device.fields[0]
            meta = {
                "device_id": device.device_id,
                "domain": self.domain,
                "kind": device.kind,
                "area": f"{AREAS[self.domain]}-{index % 6 + 1:02d}",
                "model": f"{device.fixed.get('machine_type', device.kind)}-1",
                "limit_low": float(low),
                "limit_high": float(high),
            }
            self._send("iot-metadata", device.device_id, meta)
        self.flush()

    def send(self, count: int) -> None:
        """Sends records as fast as it can, with the present as event time, and waits until the broker has them."""
        for _ in range(count):
            self._send_record(int(time.time() * 1000))
        self.flush()

    def start(self, rate: float) -> None:
        """Sends ``rate`` records a second from a thread until :meth:`stop`; late ones are sent at once."""
        if self._thread is not None:
            raise TestbedError("the producer sends already")
        self._stop.clear()
        self._thread = threading.Thread(target=self._run, args=(rate,), daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Ends :meth:`start` and waits until the broker has everything."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        self.flush()

    def flush(self) -> None:
        """Waits until the broker has everything; an error if it refused something."""
        self._client.flush(timeout=DELIVERY_MS / 1000.0)
        if self._failures:
            raise TestbedError(f"the broker did not take {len(self._failures)} records, first: {self._failures[0]!r}")

    def _run(self, rate: float) -> None:
        try:
            begin = time.time()
            number = 0
            while not self._stop.is_set():
                due = begin + number / rate
                wait = due - time.time()
                if wait > 0.0 and self._stop.wait(wait):
                    return
                self._send_record(int(due * 1000))
                number += 1
        except BaseException as error:  # told to the caller by flush()
            self._failures.append(error)

    def _send_record(self, event_time_ms: int) -> None:
        device = self._devices[self._draws.randrange(len(self._devices))]
        is_abnormal = self._draws.random() < ABNORMAL_SHARE
        record: dict[str, object] = {
            "device_id": device.device_id,
            "domain": self.domain,
            "kind": device.kind,
            "event_time": event_time_ms,
            "seq": device.seq + 1,
        }
        for name, low, high, decimals in device.fields:
            value = self._draws.uniform(low, high)
            record[name] = round(value, decimals) if decimals else int(value)
        record |= device.fixed
        if device.kind == "ecg":
            record["samples_uv"] = [self._draws.randrange(-400, 1200) for _ in range(12)]
        record["abnormal"] = is_abnormal
        self._send(self.topic, device.device_id, record)
        device.seq += 1

    def _send(self, topic: str, key: str, value: dict[str, object]) -> None:
        text = json.dumps(value, separators=(",", ":")).encode()
        self._client.send(topic, value=text, key=key.encode()).add_errback(self._failures.append)
