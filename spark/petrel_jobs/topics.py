"""What are the domains and the Kafka topics of the main job called? (The same names as in `petrel-core`.)"""

DOMAINS = ("smart-city", "healthcare", "industrial")

ALERTS = "iot-alerts-critical"
RESULTS = "iot-analytics-results"
DEAD_LETTER = "iot-dead-letter"
METADATA = "iot-metadata"


def raw_topic(domain: str) -> str:
    """The topic of the raw records of a domain, keyed by device."""
    return f"iot-{domain}-raw"
