//! How many records does one core generate, without the network? `cargo run --release --example generate_bench`
//! prints records per second of CPU time, per domain and for all.

use petrel_core::Domain;
use petrel_edge::fleet::generate::roster;
use rustix::time::{ClockId, clock_gettime};

const RECORDS: u64 = 2_000_000;

fn cpu_seconds() -> f64 {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    now.tv_sec as f64 + now.tv_nsec as f64 / 1e9
}

fn measure(name: &str, domains: &[Domain]) {
    let mut devices = roster(domains, 300, 1);
    let mut buffer = Vec::with_capacity(1 << 20);
    let mut bytes = 0_u64;
    let start_s = cpu_seconds();
    for index in 0..RECORDS {
        // 2,000 records/s over all devices, as by default.
        let time_ms = 1_795_478_400_000 + index as i64 / 2;
        let device = (index.wrapping_mul(0x9e37_79b9) >> 7) as usize % devices.len();
        devices[device].write_record(time_ms, index + 1, &mut buffer);
        if buffer.len() > 1 << 19 {
            bytes += buffer.len() as u64;
            buffer.clear();
        }
    }
    bytes += buffer.len() as u64;
    let per_second = RECORDS as f64 / (cpu_seconds() - start_s);
    println!("{name:<12} {per_second:>12.0} records/s per core, {:.0} bytes a record", bytes as f64 / RECORDS as f64);
}

fn main() {
    for domain in Domain::ALL {
        measure(domain.name(), &[domain]);
    }
    measure("all", &Domain::ALL);
}
