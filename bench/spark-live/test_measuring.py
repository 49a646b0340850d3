"""What the comparison measures, on small inputs with known answers. Run by pytest with the Python of spark/fetch.sh."""

import json
import os

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import load
import overhead
import players
import recording
import report
import run
import sink


def commit(folder, number, rows, committed_ms, compacted=()):
    """Writes a batch as Spark's file sink does; `compacted` are paths of earlier batches that its entry repeats."""
    path = folder / f"part-{number}.parquet"
    device_ids, seqs, event_ms = zip(*rows)
    pq.write_table(pa.table({"device_id": device_ids, "seq": seqs, "event_time": pa.array(event_ms, pa.int64())}), path)
    log = folder / "_spark_metadata"
    log.mkdir(exist_ok=True)
    entry = log / (f"{number}.compact" if compacted else str(number))
    lines = [json.dumps({"path": file.as_uri(), "action": "add"}) for file in (*compacted, path)]
    entry.write_text("\n".join(["v1", *lines]))
    os.utime(entry, ns=(int(committed_ms * 1e6),) * 2)
    return path


def test_a_record_counts_from_its_event_to_the_commit_of_its_own_batch(tmp_path):
    first = commit(tmp_path, 0, [("a", 1, 1_000), ("b", 1, 2_000)], 3_000)
    commit(tmp_path, 1, [("a", 2, 2_500)], 4_500, compacted=[first])
    records = sink.read(tmp_path)
    assert records.latency_ms.tolist() == [2_000, 1_000, 2_000]
    assert (records.distinct, records.doubled, records.gaps, records.batches) == (3, 0, 0, 2)


def test_files_that_no_entry_names_do_not_count_and_repeats_and_gaps_are_seen(tmp_path):
    commit(tmp_path, 0, [("a", 1, 0), ("a", 1, 0), ("a", 4, 0)], 10)
    orphan = pa.table({"device_id": ["x"], "seq": [1], "event_time": pa.array([0], pa.int64())})
    pq.write_table(orphan, tmp_path / "part-orphan.parquet")
    records = sink.read(tmp_path)
    assert (len(records.event_ms), records.distinct, records.doubled, records.gaps) == (3, 2, 1, 2)


def test_a_missing_entry_is_said_and_not_guessed(tmp_path):
    commit(tmp_path, 0, [("a", 1, 0)], 10)
    commit(tmp_path, 2, [("a", 2, 0)], 20)
    with pytest.raises(ValueError, match="entry of batch 1 is gone"):
        sink.read(tmp_path)


def test_event_times_may_be_timestamps(tmp_path):
    path = commit(tmp_path, 0, [("a", 1, 0)], 2_000)
    stamps = pa.array([1_500_000], pa.timestamp("us", tz="UTC"))
    pq.write_table(pa.table({"device_id": ["a"], "seq": [1], "event_time": stamps}), path)
    assert sink.read(tmp_path).latency_ms.tolist() == [500]


def test_executors_are_held_from_request_to_release(tmp_path):
    path = tmp_path / "job.jsonl"
    phases = [["running"], ["running", "starting"], ["running", "running"], ["running"]]
    heartbeats = [{"heard_ms": 0, "heartbeat": {"time_ms": 1_000 * second, "executor_memory_gb": 0.5,
                                                "executors": [{"phase": phase} for phase in at]}}
                  for second, at in enumerate(phases)]
    path.write_text("\n".join(json.dumps(line) for line in [{"heard_ms": 0, "run": {}}, *heartbeats]))
    executors, memory_gb = recording.read(path)
    assert memory_gb == 0.5
    assert executors.held_seconds(0, 4_000) == 1 + 2 + 2 + 1
    assert executors.held_seconds(1_500, 2_500) == 2
    assert executors.mean_running(0, 4_000) == (1 + 1 + 2 + 1) / 4


def test_an_interval_is_over_the_objective_by_its_95th_percentile():
    game = load.draw(1, 10, 4, lead_in_s=10, judged_s=130)
    executors = recording.Executors(np.array([0.0]), np.array([2.0]), np.array([1.0]))
    event_ms = np.arange(0, 1e3 * game.total_s, 100)
    late = (event_ms >= 20_000) & (event_ms < 25_000)
    records = sink.Records(event_ms, np.where(late, 9_000.0, 1_000.0), len(event_ms), 0, 1)
    rows = list(run.judge_intervals(game, records, executors, 0.0))
    assert len(rows) == 130 / run.INTERVAL_S
    assert [row["second"] for row in rows if row["p95_ms"] > 5_000] == [20]
    assert all((row["rate"], row["executors_held"], row["executors_running"]) == (10, 2, 1) for row in rows)


def test_a_load_is_seeded_and_has_a_whole_burst_in_each_half():
    for seed in range(50):
        game = load.draw(seed, 100.0, 4.0, 30, 150)
        assert game == load.draw(seed, 100.0, 4.0, 30, 150)
        for half, burst in enumerate(game.bursts):
            assert 30 + 75 * half < burst.onset_s < burst.peak_s < burst.end_s < 30 + 75 * (half + 1)
            assert game.rate(burst.peak_s) == 400.0
        assert game.rate(0) == 100.0
    assert load.draw(1, 100.0, 4.0, 30, 150) != load.draw(2, 100.0, 4.0, 30, 150)
    with pytest.raises(ValueError, match="at least"):
        load.draw(1, 100.0, 4.0, 30, 60)
    assert load.steady(1, 100.0, 30, 60).rate(50) == 100.0


def test_intervals_of_estimates_hold_the_value_and_widen_with_spread():
    narrow, wide = report.estimate([10, 11, 10, 11, 10, 11]), report.estimate([0, 20, 1, 21, 0, 21])
    assert narrow.low <= narrow.value <= narrow.high
    assert wide.high - wide.low > narrow.high - narrow.low
    assert narrow.text(1).endswith("]") and report.estimate([3.0, 3.0]).text(1) == "3.0"


def game_rows(over, seeds=range(1, 7)):
    """Bursts and games of some seeds in which a player has these intervals over the objective, and executor-seconds.

    The odd seeds have one interval more, so that intervals of estimates have a width.
    """
    bursts, games = [], []
    for player, (share, seconds) in over.items():
        for seed in seeds:
            games.append({"seed": seed, "player": player, "in_sink": 100, "lost": 0, "doubled": 0, "gaps": 0, "stalled_ms": 0})
            for burst in (1, 2):
                bursts.append({"seed": seed, "player": player, "burst": burst, "intervals": 10,
                               "over_objective": share + seed % 2, "p50_ms": 1.0, "p95_ms": 2.0, "p99_ms": 3.0,
                               "executor_seconds": seconds, "cost_usd": 0.1})
    return bursts, games


@pytest.mark.parametrize(("over", "met"), [
    ({"spark-da": (5, 200), "forecast": (1, 200)}, True),
    ({"spark-da": (1, 200), "forecast": (1, 200)}, False),
    # Lower, but within what games differ by.
    ({"spark-da": (1.5, 200), "forecast": (1, 200)}, False),
    # A rival that is as cheap and better takes the bar; one that costs more does not.
    ({"spark-da": (5, 200), "forecast": (1, 200), "hpa": (0, 190)}, False),
    ({"spark-da": (5, 200), "forecast": (1, 200), "hpa": (0, 300)}, True),
])
def test_the_bar_is_judged_as_it_is_written(over, met):
    text = report.verdict(*game_rows(over))
    assert text.endswith("The bar is met." if met else "The bar is not met."), text


def test_few_games_and_games_that_lost_records_give_no_verdict():
    played = {"spark-da": (5, 200), "forecast": (1, 200)}
    assert report.verdict(*game_rows(played, seeds=range(1, 6))).startswith("No verdict: 6 games")
    bursts, games = game_rows(played)
    games[3]["lost"] = 7
    assert "seed 4, `spark-da`: 7 records lost" in report.verdict(bursts, games)
    # A player with too few games neither takes part nor keeps the others from being judged.
    few_bursts, few_games = game_rows({"hpa": (0, 100)}, seeds=[1])
    bursts, games = game_rows(played)
    assert report.verdict(bursts + few_bursts, games + few_games).endswith("The bar is met.")


def test_the_table_has_a_row_for_each_player_with_the_paired_difference():
    bursts, games = game_rows({"spark-da": (5, 200), "forecast": (1, 150)})
    lines = report.table(report.results(bursts, games), bursts).splitlines()
    assert len(lines) == 4 and len({line.count("|") for line in lines}) == 1
    assert "| 18 of 120 | 15.0 [11.7, 18.3] | -40.0 |" in lines[3], lines[3]
    assert "| 150 | 75 | 0.10000 | 600 | 0 | 0 |" in lines[3], lines[3]
    assert "held 75 % of the executor-seconds" in report.verdict(bursts, games)


def test_seeds_and_players_are_each_named_once():
    assert run.seed_list("1-3") == [1, 2, 3] and run.seed_list("4,2") == [4, 2]
    for wrong in ("3-1", "1,1", "", "x"):
        with pytest.raises(run.argparse.ArgumentTypeError):
            run.seed_list(wrong)
    with pytest.raises(ValueError, match="each once"):
        players.named(["hpa", "hpa"])


def test_batch_times_come_from_sparks_own_log_and_empty_batches_do_not_count():
    def progress(records, trigger_ms):
        return json.dumps({"timestamp": "1970-01-01T00:00:02.500Z", "numInputRows": records,
                           "durationMs": {"triggerExecution": trigger_ms}}, indent=2)

    log = "".join(f"20:00:00 INFO MicroBatchExecution: Streaming query made progress: {one}\n20:00:01 WARN x: y\n"
                  for one in (progress(5, 300), progress(0, 20), progress(7, 310)))
    assert overhead.batch_times(log) == [(2500.0, 300), (2500.0, 310)]


def test_the_plugins_account_is_weighted_by_its_heartbeats():
    line = ("21:03:06 INFO Cost: Petrel: CPU of {} heartbeats: {} ms median, {} ms mean, {} ms at most; {} ms each with "
            "listening and scaling\n")
    log = "21:02:06 INFO Cost: Petrel: CPU of the first heartbeat: 83.10 ms, with loading classes\n"
    log += line.format(10, "3.00", "4.00", "10.75", "5.00") + line.format(30, "1.00", "2.00", "3.00", "3.00")
    assert list(overhead.heartbeat_cost(log).values()) == [40, 83.1, 1.5, 2.5, 10.75, 3.5]
    assert set(overhead.heartbeat_cost("nothing").values()) == {""}


def test_a_jobs_file_says_what_the_player_is():
    text = players.PLAYERS["spark-da"].jobs_file("job", 5, {"interval": 5})
    assert 'advice-only = true' in text and "interval = 5" in text
    assert "policy-settings.hpa.scale_down_window_s = 20.0" in players.PLAYERS["hpa-quick"].jobs_file("job", 5, {})
    assert players.PLAYERS["fixed-large"].initial_executors(5) == 5
    with pytest.raises(ValueError, match="expected some of fixed-small"):
        players.named(["nobody"])


def test_rows_of_unfinished_games_are_dropped(tmp_path):
    report.append(tmp_path / "games.csv", [{"seed": 1, "player": "hpa"}])
    report.append(tmp_path / "bursts.csv", [{"seed": 1, "player": "hpa"}, {"seed": 1, "player": "ppo"}])
    assert run.drop_unfinished(tmp_path) == {(1, "hpa")}
    assert report.rows(tmp_path / "bursts.csv") == [{"seed": 1, "player": "hpa"}]
