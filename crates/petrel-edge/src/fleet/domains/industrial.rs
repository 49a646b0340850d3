//! What do machines and production lines report while they wear out?

use super::{Episode, Moment, Traits, Wander, daily_activity, normal, push_count, push_number, whole_with_mean};
use crate::fleet::json_text::push_unsigned;
use rand::RngExt;
use rand_pcg::Pcg64Mcg;

/// Kinds in the order in which devices get them: 70 % machine sensors, 30 % production.
pub const KINDS: [&str; 10] = [
    "machine",
    "machine",
    "production",
    "machine",
    "machine",
    "production",
    "machine",
    "machine",
    "production",
    "machine",
];

/// A machine type and its readings when new.
#[derive(Debug, Clone, Copy)]
pub struct MachineType {
    /// Name in the records.
    pub name: &'static str,
    temperature_c: f64,
    vibration_limit_mm_s: f64,
    pressure_bar: f64,
    speed_rpm: f64,
    power_kw: f64,
    cycle_time_s: f64,
}

/// The five machine types.
pub const MACHINE_TYPES: [MachineType; 5] = [
    MachineType {
        name: "cnc",
        temperature_c: 48.0,
        vibration_limit_mm_s: 4.5,
        pressure_bar: 70.0,
        speed_rpm: 9_000.0,
        power_kw: 15.0,
        cycle_time_s: 24.0,
    },
    MachineType {
        name: "press",
        temperature_c: 55.0,
        vibration_limit_mm_s: 11.2,
        pressure_bar: 220.0,
        speed_rpm: 60.0,
        power_kw: 75.0,
        cycle_time_s: 6.0,
    },
    MachineType {
        name: "robot",
        temperature_c: 42.0,
        vibration_limit_mm_s: 4.5,
        pressure_bar: 6.0,
        speed_rpm: 1_800.0,
        power_kw: 5.5,
        cycle_time_s: 12.0,
    },
    MachineType {
        name: "conveyor",
        temperature_c: 38.0,
        vibration_limit_mm_s: 7.1,
        pressure_bar: 4.0,
        speed_rpm: 300.0,
        power_kw: 4.0,
        cycle_time_s: 2.0,
    },
    MachineType {
        name: "compressor",
        temperature_c: 75.0,
        vibration_limit_mm_s: 7.1,
        pressure_bar: 9.5,
        speed_rpm: 3_000.0,
        power_kw: 45.0,
        cycle_time_s: 4.0,
    },
];

/// A machine is worn out after this many seconds of operation, lowest and highest.
const LIFE_S: (f64, f64) = (600.0, 1_800.0);
const MAINTENANCE_S: f64 = 10.0;
/// Vibration of a worn-out machine is `1 + VIBRATION_GAIN` times that of a new one.
const VIBRATION_GAIN: f64 = 3.0;
/// At this wear vibration and cycle time reach the limits of the device.
const WEAR_AT_LIMIT: f64 = 0.955;

/// Wear from 0 (new) to 1 (worn out), reset by maintenance.
#[derive(Debug, Clone, Copy)]
struct Wear {
    level: f64,
    life_s: f64,
    maintenance_left_s: f64,
}

impl Wear {
    fn new(rng: &mut Pcg64Mcg) -> Self {
        Self { level: rng.random(), life_s: rng.random_range(LIFE_S.0..LIFE_S.1), maintenance_left_s: 0.0 }
    }

    /// Moves on; `load` is the share of full operation. True while in maintenance.
    fn step(&mut self, moment: Moment, load: f64, rng: &mut Pcg64Mcg) -> bool {
        if self.maintenance_left_s > 0.0 {
            self.maintenance_left_s -= moment.since_last_s;
            return self.maintenance_left_s > 0.0;
        }
        self.level += moment.since_last_s * load / self.life_s;
        if self.level >= 1.0 {
            *self =
                Self { level: 0.0, life_s: rng.random_range(LIFE_S.0..LIFE_S.1), maintenance_left_s: MAINTENANCE_S };
            return true;
        }
        false
    }
}

fn area(rng: &mut Pcg64Mcg) -> String {
    format!("hall-{:02}", rng.random_range(1..=6))
}

/// The sensors of one machine.
#[derive(Debug, Clone)]
pub struct Machine {
    machine: &'static MachineType,
    wear: Wear,
    idle: Episode,
    load: Wander,
    heat: f64,
    run_hours: f64,
}

impl Machine {
    /// The machine with this number among all machines; the types take turns.
    pub fn new(ordinal: usize, rng: &mut Pcg64Mcg) -> (Self, Traits) {
        let machine = &MACHINE_TYPES[ordinal % MACHINE_TYPES.len()];
        let sensors = Self {
            machine,
            wear: Wear::new(rng),
            idle: Episode::new(0.1, 30.0, rng),
            load: Wander::new(0.95, rng),
            heat: 1.0,
            run_hours: rng.random_range(100.0..40_000.0),
        };
        let model = format!("{}-{}", machine.name, [500, 700, 900][rng.random_range(0..3)]);
        (sensors, Traits { area: area(rng), model, limit_low: 0.0, limit_high: machine.vibration_limit_mm_s })
    }

    /// Writes the fields; true when the vibration is beyond its limit.
    pub fn write_fields(&mut self, moment: Moment, rng: &mut Pcg64Mcg, out: &mut Vec<u8>) -> bool {
        self.idle.step(moment, rng);
        let in_maintenance = self.wear.step(moment, if self.idle.on { 0.0 } else { 1.0 }, rng);
        let running = !in_maintenance && !self.idle.on;
        let state: &[u8] = if in_maintenance {
            b"maintenance"
        } else if running {
            b"running"
        } else {
            b"idle"
        };
        // Oil, bearings and housing follow the load with a time constant of 30 s.
        let heat_target = if running { 1.0 } else { 0.0 };
        self.heat += (heat_target - self.heat) * (moment.since_last_s / (moment.since_last_s + 30.0));
        let load = if running { (1.0 + 0.08 * self.load.step(rng)).max(0.2) } else { 0.04 };
        let worn = self.wear.level * self.wear.level;
        let machine = self.machine;
        let vibration_when_new = machine.vibration_limit_mm_s / (1.0 + VIBRATION_GAIN * WEAR_AT_LIMIT * WEAR_AT_LIMIT);
        let vibration = vibration_when_new * (1.0 + VIBRATION_GAIN * worn) * load.min(1.0) * (1.0 + 0.03 * normal(rng));
        let temperature = 21.0 + (machine.temperature_c - 21.0) * self.heat * (1.0 + 0.45 * worn) + 0.3 * normal(rng);
        let pressure = machine.pressure_bar * if running { 1.0 - 0.1 * worn + 0.01 * normal(rng) } else { 0.3 };
        let speed = if running { machine.speed_rpm * (1.0 + 0.01 * normal(rng)) } else { 0.0 };
        let power = machine.power_kw * load * (1.0 + 0.3 * worn);
        if running {
            self.run_hours += moment.since_last_s / 3_600.0;
        }
        out.extend_from_slice(b",\"machine_type\":\"");
        out.extend_from_slice(machine.name.as_bytes());
        out.extend_from_slice(b"\",\"state\":\"");
        out.extend_from_slice(state);
        out.push(b'"');
        push_number(out, b",\"temperature_c\":", temperature, (0.0, 180.0), 1);
        push_number(out, b",\"vibration_mm_s\":", vibration, (0.0, 50.0), 2);
        push_number(out, b",\"pressure_bar\":", pressure, (0.0, 400.0), 2);
        push_count(out, b",\"speed_rpm\":", speed, (0.0, 20_000.0));
        push_number(out, b",\"power_kw\":", power, (0.0, 200.0), 2);
        push_number(out, b",\"run_hours\":", self.run_hours, (0.0, 100_000.0), 1);
        vibration > machine.vibration_limit_mm_s
    }
}

const UNITS_PER_ORDER: u64 = 500;

/// The counters of one production line.
#[derive(Debug, Clone)]
pub struct Production {
    machine: &'static MachineType,
    line_text: Vec<u8>,
    wear: Wear,
    pace: Wander,
    first_order: u64,
    units: u64,
}

impl Production {
    /// The counter with this number among all of them; the machine types take turns.
    pub fn new(ordinal: usize, rng: &mut Pcg64Mcg) -> (Self, Traits) {
        let machine = &MACHINE_TYPES[ordinal % MACHINE_TYPES.len()];
        let line = Self {
            machine,
            line_text: format!(",\"line\":\"line-{:02}\"", rng.random_range(1..=8)).into_bytes(),
            wear: Wear::new(rng),
            pace: Wander::new(0.9, rng),
            first_order: rng.random_range(1..=900_000),
            units: 0,
        };
        let model = format!("{}-counter", machine.name);
        let traits = Traits {
            area: area(rng),
            model,
            limit_low: machine.cycle_time_s * 0.5,
            limit_high: machine.cycle_time_s * 1.5,
        };
        (line, traits)
    }

    /// Writes the fields; true when the cycle time is beyond its limits.
    pub fn write_fields(&mut self, moment: Moment, rng: &mut Pcg64Mcg, out: &mut Vec<u8>) -> bool {
        let shift = 0.6 + 0.4 * daily_activity(moment.hour());
        let in_maintenance = self.wear.step(moment, 1.0, rng);
        let worn = self.wear.level * self.wear.level;
        let slower = 1.0 + 0.5 * worn / (WEAR_AT_LIMIT * WEAR_AT_LIMIT);
        let cycle_s = self.machine.cycle_time_s * slower * (1.0 + 0.01 * self.pace.step(rng));
        let made =
            if in_maintenance { 0.0 } else { whole_with_mean(moment.since_last_s * shift / cycle_s, rng).min(50.0) };
        let reject_share = 0.01 + 0.08 * worn;
        let rejected = whole_with_mean(made * reject_share, rng).min(made);
        self.units += made as u64;
        let nominal_share = if in_maintenance { 0.0 } else { self.machine.cycle_time_s / cycle_s };
        let oee_pct = 100.0 * shift * nominal_share * (1.0 - reject_share);
        let energy_kwh = self.machine.power_kw * cycle_s / 3_600.0 * (1.0 + 0.3 * worn);
        out.extend_from_slice(b",\"machine_type\":\"");
        out.extend_from_slice(self.machine.name.as_bytes());
        out.push(b'"');
        out.extend_from_slice(&self.line_text);
        out.extend_from_slice(b",\"order_id\":");
        push_unsigned(out, self.first_order + self.units / UNITS_PER_ORDER);
        push_count(out, b",\"units_ok\":", made - rejected, (0.0, 50.0));
        push_count(out, b",\"units_rejected\":", rejected, (0.0, 50.0));
        push_number(out, b",\"cycle_time_s\":", cycle_s, (0.1, 120.0), 2);
        push_number(out, b",\"oee_pct\":", oee_pct, (0.0, 100.0), 1);
        push_number(out, b",\"energy_kwh\":", energy_kwh, (0.0, 50.0), 3);
        cycle_s > self.machine.cycle_time_s * 1.5
    }
}
