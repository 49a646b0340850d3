"""Petrel's Spark jobs: one streaming job for each IoT domain, a UDF library and a daily report."""
