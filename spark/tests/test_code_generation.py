"""Is the plan of the hot path what its cost was measured with?"""

import pytest
from records import DOMAINS, record

# HotSpot never compiles a longer method (-XX:-DontCompileHugeMethods apart): the query would run interpreted.
LONGEST_COMPILED_METHOD_BYTES = 8000


@pytest.mark.parametrize("domain", DOMAINS)
def test_the_json_is_parsed_once_the_join_is_a_broadcast_and_hot_spot_compiles_the_rest(spark, define, domain):
    define(domain, [record(domain)], [("device-1", "area-1", "model-1", 0.0, 1.0)])
    plan = spark.table("validated")._jdf.queryExecution().executedPlan()
    text = plan.treeString(True, False, 10_000, False)
    assert text.count("from_json(StructField(device_id,StringType,true), StructField(event_time") == 1
    assert "BroadcastHashJoin" in text
    assert "SortMergeJoin" not in text
    debug = spark._jvm.org.apache.spark.sql.execution.debug.__getattr__("package")
    stages = debug.codegenStringSeq(plan)
    assert stages.size() >= 1
    for number in range(stages.size()):
        longest = int(str(stages.apply(number)._3()).partition("(")[2].split(",")[0])
        assert 0 < longest <= LONGEST_COMPILED_METHOD_BYTES
