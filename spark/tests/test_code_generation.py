"""Is the plan of the hot path what its cost was measured with?"""

import pytest
from records import DOMAINS, record

from petrel_jobs import stream

# HotSpot never compiles a longer method (-XX:-DontCompileHugeMethods apart): the query would run interpreted.
LONGEST_COMPILED_METHOD_BYTES = 8000


@pytest.mark.parametrize("domain", DOMAINS)
def test_the_devices_are_broadcast_and_no_method_runs_interpreted_for_its_length(spark, define, domain):
    stream.open_session()  # This session, with the job's settings.
    # Spark 4.2 needs 9,267 bytes for the machines: above the limit it runs the stage operator by operator.
    limit = int(spark.conf.get("spark.sql.codegen.hugeMethodLimit"))
    assert limit <= LONGEST_COMPILED_METHOD_BYTES
    define(domain, [record(domain)], [("device-1", "area-1", "model-1", 0.0, 1.0)])
    plan = spark.table("validated")._jdf.queryExecution().executedPlan()
    assert "BroadcastHashJoin" in plan.toString()
    assert "SortMergeJoin" not in plan.toString()
