//! How many smart-city records become rows in a second of CPU time?
//!
//! `cargo run --release -p petrel-engine --example decode_bench`

use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::{DataType, Field, Schema, TimeUnit};
use decode::RecordDecoder;
use petrel_engine::cpu_share::thread_cpu_time;
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64Mcg;
use std::sync::Arc;

mod error {
    pub(crate) use petrel_engine::error::TaskError;
}

#[allow(dead_code)]
#[path = "../src/task/decode.rs"]
mod decode;

const RECORDS: u64 = 20_000;
const ROUNDS: u64 = 50;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let (lines, seed) = (lines(), 1);
    let bytes: usize = lines.iter().map(String::len).sum();
    let mut decoder = RecordDecoder::new(Arc::new(schema()), lines.len());
    let mut best = f64::INFINITY;
    for _ in 0..ROUNDS {
        let before = thread_cpu_time();
        let batch = decode(&mut decoder, &lines)?;
        let cpu_s = (thread_cpu_time() - before).as_secs_f64();
        assert_eq!(batch.num_rows(), lines.len());
        best = best.min(cpu_s);
    }
    let rate = lines.len() as f64 / best;
    println!("seed {seed}, {:.0} bytes per record", bytes as f64 / lines.len() as f64);
    println!("{:.2} M records per CPU second, {:.0} MB/s", rate / 1e6, bytes as f64 / best / 1e6);
    Ok(())
}

fn decode(decoder: &mut RecordDecoder, lines: &[String]) -> Result<RecordBatch, Box<dyn std::error::Error>> {
    let mut newest_ms = i64::MIN;
    for line in lines {
        let pushed = decoder.push(line.as_bytes(), |identity| {
            newest_ms = newest_ms.max(identity.event_time_ms);
            identity.seq > 0
        });
        pushed.map_err(|fault| format!("{fault:?}"))?;
    }
    Ok(decoder.finish()?)
}

/// All fields of the domain, see `docs/records.md`.
fn schema() -> Schema {
    let mut fields = vec![
        Field::new("device_id", DataType::Utf8, false),
        Field::new("domain", DataType::Utf8, false),
        Field::new("kind", DataType::Utf8, false),
        Field::new("event_time", DataType::Timestamp(TimeUnit::Millisecond, None), false),
        Field::new("seq", DataType::Int64, false),
        Field::new("abnormal", DataType::Boolean, true),
    ];
    let counts = ["vehicle_count", "queue_m", "spaces_total", "spaces_occupied", "entered", "departed"];
    fields.extend(counts.map(|name| Field::new(name, DataType::Int32, true)));
    let numbers = [
        "speed_kmh",
        "lane_occupancy_pct",
        "heavy_pct",
        "pm25_ugm3",
        "pm10_ugm3",
        "no2_ugm3",
        "o3_ugm3",
        "co_mgm3",
        "temperature_c",
        "humidity_pct",
        "occupancy_pct",
        "stay_min",
        "latitude",
        "longitude",
    ];
    fields.extend(numbers.map(|name| Field::new(name, DataType::Float64, true)));
    Schema::new(fields)
}

/// Records of the kinds of the built-in fleet, in its shares.
fn lines() -> Vec<String> {
    let mut rng = Pcg64Mcg::seed_from_u64(1);
    (0..RECORDS)
        .map(|record| {
            let kind = ["traffic", "air-quality", "traffic", "parking", "traffic"][rng.random_range(0..5)];
            let kind = if kind == "traffic" && rng.random_bool(1.0 / 6.0) { "air-quality" } else { kind };
            let (device, seq) = (rng.random_range(0..2_000), rng.random_range(1..100_000));
            let mut number = |most: f64| rng.random_range(0.0..most);
            let place = format!(",\"latitude\":{:.5},\"longitude\":{:.5}", 45.9 + number(0.6), 5.9 + number(0.6));
            let fields = match kind {
                "traffic" => format!(
                    "\"vehicle_count\":{:.0},\"speed_kmh\":{:.1},\"lane_occupancy_pct\":{:.1},\"heavy_pct\":{:.1},\
                     \"queue_m\":{:.0}{place}",
                    number(120.0),
                    number(130.0),
                    number(100.0),
                    number(20.0),
                    number(500.0)
                ),
                "air-quality" => format!(
                    "\"pm25_ugm3\":{:.1},\"pm10_ugm3\":{:.1},\"no2_ugm3\":{:.1},\"o3_ugm3\":{:.1},\"co_mgm3\":{:.2},\
                     \"temperature_c\":{:.1},\"humidity_pct\":{:.1}",
                    number(60.0),
                    number(90.0),
                    number(80.0),
                    number(80.0),
                    number(2.0),
                    number(30.0),
                    number(100.0)
                ),
                _ => format!(
                    "\"spaces_total\":{:.0},\"spaces_occupied\":{:.0},\"occupancy_pct\":{:.1},\"entered\":{:.0},\
                     \"departed\":{:.0},\"stay_min\":{:.1}{place}",
                    number(400.0),
                    number(400.0),
                    number(100.0),
                    number(20.0),
                    number(20.0),
                    number(200.0)
                ),
            };
            format!(
                "{{\"device_id\":\"{kind}-{device:05}\",\"domain\":\"smart-city\",\"kind\":\"{kind}\",\
                 \"event_time\":{},\"seq\":{seq},{fields},\"abnormal\":false}}",
                1_795_478_400_000_u64 + record
            )
        })
        .collect()
}
