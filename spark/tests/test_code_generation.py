"""Is the plan of the hot path what its cost was measured with?"""

import pytest
from records import DOMAINS, record

# HotSpot never compiles a longer method (-XX:-DontCompileHugeMethods apart): the query would run interpreted.
LONGEST_COMPILED_METHOD_BYTES = 8000


@pytest.mark.parametrize("domain", DOMAINS)
def test_the_devices_are_broadcast_and_hot_spot_compiles_the_rest(spark, define, domain):
    define(domain, [record(domain)], [("device-1", "area-1", "model-1", 0.0, 1.0)])
    plan = spark.table("validated")._jdf.queryExecution().executedPlan()
    assert "BroadcastHashJoin" in plan.toString()
    assert "SortMergeJoin" not in plan.toString()
    stages = spark._jvm.org.apache.spark.sql.execution.debug.package.codegenStringSeq(plan)
    assert stages.size() >= 1
    for number in range(stages.size()):
        # ByteCodeStats(longest method, constant pool, inner classes)
        longest = int(stages.apply(number)._3().toString().partition("(")[2].split(",")[0])
        assert 0 < longest <= LONGEST_COMPILED_METHOD_BYTES
