//! What do the parameters mean? Prints what fleets serve, what each choice costs in time and money, and how constant fleets do on
//! one episode of every synthetic family.
//!
//! `cargo run --release -p petrel-sim --example queue_calibration`

use petrel_core::{Action, Codec, Tier};
use petrel_sim::queue::{QueueParams, QueueWorld, WorldSettings, default_limits};
use petrel_sim::table::{auto_mean_rate, saturated_rate, served_rate, service_ms, steady_p95_ms};
use petrel_sim::traces::{Split, TraceSet, TraceSettings};
use std::path::Path;
use std::sync::Arc;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let params = Arc::new(QueueParams::default());
    let limits = default_limits();
    let objective_ms = params.job.slo_p95_ms;
    println!("executors  saturated/s  served/s within {objective_ms} ms  (4 GB, memory, lz4)");
    for executors in [1.0, 2.0, 5.0, 10.0, 15.0, 20.0, 50.0, 100.0] {
        let saturated = saturated_rate(&params, executors, 4.0, Tier::Memory, Codec::Lz4);
        let served = served_rate(&params, executors, 4.0, Tier::Memory, Codec::Lz4, objective_ms);
        println!("{executors:>9}  {saturated:>11.0}  {served:>8.0}");
    }
    println!("empty batch: {:.0} ms", service_ms(&params, 0.0, 6.0, 4.0, Tier::Memory, Codec::Lz4));
    println!("automatic mean rate: {:.0}/s", auto_mean_rate(&params, &limits));
    println!("\n8 executors: served/s by memory (rows) and tier x codec");
    for memory_gb in [1.0, 2.0, 3.0, 4.0, 6.0, 8.0] {
        print!("{memory_gb} GB");
        for tier in [Tier::Memory, Tier::Nvme, Tier::S3] {
            for codec in Codec::ALL {
                let served = served_rate(&params, 8.0, memory_gb, tier, codec, objective_ms);
                print!("  {tier}/{codec} {:.0}k", served / 1e3);
            }
        }
        println!();
    }
    for tier in Tier::ALL {
        let p95 = steady_p95_ms(&params, 30_000.0, 8.0, 4.0, tier, Codec::Lz4);
        println!("p95 of 30,000/s on 8 executors, {tier}: {p95:.0} ms");
    }
    let set = match std::env::args().nth(1) {
        Some(directory) => TraceSet::load(Path::new(&directory), TraceSettings::default())?,
        None => TraceSet::synthetic(TraceSettings::default()),
    };
    println!(
        "\nconstant fleets on the validation episodes: violations %, $/h, p95 of all records in s, batches out of memory"
    );
    let plays: [(u32, f64, Tier, Codec); 10] = [
        (5, 4.0, Tier::Memory, Codec::Lz4),
        (10, 4.0, Tier::Memory, Codec::Lz4),
        (20, 1.0, Tier::Memory, Codec::Lz4),
        (20, 2.0, Tier::Memory, Codec::Lz4),
        (20, 4.0, Tier::Memory, Codec::None),
        (20, 4.0, Tier::Memory, Codec::Lz4),
        (20, 4.0, Tier::Memory, Codec::Zstd),
        (20, 4.0, Tier::Nvme, Codec::Lz4),
        (20, 4.0, Tier::S3, Codec::Zstd),
        (20, 8.0, Tier::Memory, Codec::Lz4),
    ];
    for episode in set.episodes(Split::Validate) {
        let arrivals = Arc::new(episode.arrivals(&params, &limits, 1.0, 3));
        let peak = arrivals.counts.iter().copied().fold(0.0, f32::max);
        let mean = arrivals.total() / arrivals.duration_s() as f64;
        print!("{:<30} mean {:>6.0} peak {peak:>7.0}", episode.name, mean);
        for (executors, memory_gb, tier, codec) in plays {
            let mut world =
                QueueWorld::new(Arc::clone(&params), Arc::clone(&arrivals), WorldSettings::new(&params, 3))?;
            while !world.is_done() {
                world.step_interval(&Action { executors, memory_gb, tier, codec, prewarm: 0 });
            }
            let totals = world.totals();
            let hours = f64::from(world.now_s()) / 3_600.0;
            print!(
                " | {executors}x{memory_gb} {tier}/{codec} {:.0}% {:.2}$ p95 {:.1} oom {}",
                100.0 * totals.violation_rate(),
                totals.cost_usd / hours,
                totals.p95_ms() / 1e3,
                totals.oom
            );
        }
        println!();
    }
    Ok(())
}
