//! What do the monitors of patients report?

use super::{Episode, Moment, Traits, Wander, normal, push_count, push_number};
use crate::fleet::json_text::{push_padded, push_signed};
use rand::RngExt;
use rand_pcg::Pcg64Mcg;

/// Kinds in the order in which devices get them: 80 % vital signs, 20 % ECG.
pub const KINDS: [&str; 5] = ["vital-signs", "vital-signs", "ecg", "vital-signs", "vital-signs"];

/// Share of time in which a patient is abnormal.
pub const ABNORMAL_SHARE: f64 = 0.05;
const EPISODE_MEAN_S: f64 = 20.0;

fn traits(model: String, rng: &mut Pcg64Mcg) -> Traits {
    Traits { area: format!("ward-{:02}", rng.random_range(1..=10)), model, limit_low: 45.0, limit_high: 125.0 }
}

/// The text `,"patient_id":"p00012"`.
fn patient_text(index: usize) -> Vec<u8> {
    let mut text = b",\"patient_id\":\"p".to_vec();
    push_padded(&mut text, index as u64, 5);
    text.push(b'"');
    text
}

/// What goes wrong together in an episode.
#[derive(Debug, Clone, Copy)]
struct Syndrome {
    heart_rate_bpm: f64,
    spo2_pct: f64,
    systolic_mmhg: f64,
    respiration_rpm: f64,
    temperature_c: f64,
    st_mv: f64,
}

const SYNDROMES: [Syndrome; 3] = [
    // Tachycardia with fever and low saturation.
    Syndrome {
        heart_rate_bpm: 65.0,
        spo2_pct: -9.0,
        systolic_mmhg: 15.0,
        respiration_rpm: 12.0,
        temperature_c: 1.9,
        st_mv: 0.08,
    },
    // Bradycardia.
    Syndrome {
        heart_rate_bpm: -34.0,
        spo2_pct: -4.0,
        systolic_mmhg: -18.0,
        respiration_rpm: -3.0,
        temperature_c: -0.3,
        st_mv: 0.28,
    },
    // Low pressure, as in shock.
    Syndrome {
        heart_rate_bpm: 58.0,
        spo2_pct: -6.0,
        systolic_mmhg: -42.0,
        respiration_rpm: 8.0,
        temperature_c: -0.8,
        st_mv: -0.22,
    },
];

/// A bedside or wearable monitor: correlated readings around the baseline of the patient.
#[derive(Debug, Clone)]
pub struct VitalSigns {
    patient: Vec<u8>,
    heart_rate_bpm: f64,
    systolic_mmhg: f64,
    pulse_pressure_mmhg: f64,
    respiration_rpm: f64,
    temperature_c: f64,
    arousal: Wander,
    heart: Wander,
    pressure: Wander,
    episode: Episode,
    syndrome: usize,
    battery_pct: f64,
}

impl VitalSigns {
    /// The monitor of patient `index`.
    pub fn new(index: usize, rng: &mut Pcg64Mcg) -> (Self, Traits) {
        let monitor = Self {
            patient: patient_text(index),
            heart_rate_bpm: 74.0 + 8.0 * normal(rng).clamp(-2.0, 2.0),
            systolic_mmhg: 122.0 + 11.0 * normal(rng).clamp(-2.0, 2.0),
            pulse_pressure_mmhg: 43.0 + 5.0 * normal(rng).clamp(-2.0, 2.0),
            respiration_rpm: 15.0 + 1.8 * normal(rng).clamp(-2.0, 2.0),
            temperature_c: 36.7 + 0.2 * normal(rng).clamp(-2.0, 2.0),
            arousal: Wander::new(0.98, rng),
            heart: Wander::new(0.9, rng),
            pressure: Wander::new(0.95, rng),
            episode: Episode::new(ABNORMAL_SHARE, EPISODE_MEAN_S, rng),
            syndrome: rng.random_range(0..SYNDROMES.len()),
            battery_pct: rng.random_range(20.0..100.0),
        };
        let model = format!("vs-{}", [200, 300][rng.random_range(0..2)]);
        (monitor, traits(model, rng))
    }

    /// Writes the fields; true when the patient is in an episode.
    pub fn write_fields(&mut self, moment: Moment, rng: &mut Pcg64Mcg, out: &mut Vec<u8>) -> bool {
        if self.episode.step(moment, rng) {
            self.syndrome = rng.random_range(0..SYNDROMES.len());
        }
        let (severity, syndrome) = (self.episode.severity, &SYNDROMES[self.syndrome]);
        // Arousal moves heart, pressure and breath together.
        let arousal = self.arousal.step(rng);
        let heart_rate =
            self.heart_rate_bpm + 4.0 * arousal + 2.0 * self.heart.step(rng) + syndrome.heart_rate_bpm * severity;
        let systolic =
            self.systolic_mmhg + 4.0 * arousal + 3.0 * self.pressure.step(rng) + syndrome.systolic_mmhg * severity;
        let diastolic = (systolic - self.pulse_pressure_mmhg * (systolic / 120.0)).min(systolic - 12.0);
        let respiration =
            self.respiration_rpm + 1.0 * arousal + 0.4 * normal(rng) + syndrome.respiration_rpm * severity;
        let spo2 = 97.6 - 0.3 * arousal + 0.4 * normal(rng) + syndrome.spo2_pct * severity;
        let temperature = self.temperature_c + 0.03 * arousal + syndrome.temperature_c * severity;
        // A charge lasts about a day; a flat battery is changed.
        self.battery_pct -= moment.since_last_s / 864.0;
        if self.battery_pct < 3.0 {
            self.battery_pct = 100.0;
        }
        out.extend_from_slice(&self.patient);
        push_number(out, b",\"heart_rate_bpm\":", heart_rate, (25.0, 220.0), 1);
        push_number(out, b",\"spo2_pct\":", spo2, (60.0, 100.0), 1);
        push_count(out, b",\"systolic_mmhg\":", systolic, (50.0, 240.0));
        push_count(out, b",\"diastolic_mmhg\":", diastolic, (30.0, 150.0));
        push_number(out, b",\"respiration_rpm\":", respiration, (4.0, 50.0), 1);
        push_number(out, b",\"temperature_c\":", temperature, (33.0, 42.5), 2);
        push_count(out, b",\"battery_pct\":", self.battery_pct, (0.0, 100.0));
        self.episode.on
    }
}

/// One beat at 12 equal steps, as a share of the R wave: P, Q, R, S, ST, T.
const BEAT: [f64; 12] = [0.0, 0.09, 0.13, 0.02, -0.12, 1.0, -0.26, 0.0, 0.05, 0.24, 0.16, 0.01];
const ST_STEP: usize = 7;

/// A one-lead ECG: one beat a record.
#[derive(Debug, Clone)]
pub struct Ecg {
    patient: Vec<u8>,
    lead: &'static [u8],
    amplitude_uv: f64,
    heart_rate_bpm: f64,
    qrs_ms: f64,
    heart: Wander,
    episode: Episode,
    syndrome: usize,
}

impl Ecg {
    /// The ECG of patient `index`.
    pub fn new(index: usize, rng: &mut Pcg64Mcg) -> (Self, Traits) {
        let leads: [&'static [u8]; 4] = [b"I", b"II", b"V1", b"V5"];
        let ecg = Self {
            patient: patient_text(index),
            lead: leads[rng.random_range(0..leads.len())],
            amplitude_uv: rng.random_range(700.0..1600.0),
            heart_rate_bpm: 72.0 + 8.0 * normal(rng).clamp(-2.0, 2.0),
            qrs_ms: rng.random_range(80.0..110.0),
            heart: Wander::new(0.9, rng),
            episode: Episode::new(ABNORMAL_SHARE, EPISODE_MEAN_S, rng),
            syndrome: rng.random_range(0..SYNDROMES.len()),
        };
        (ecg, traits("ecg-12".to_string(), rng))
    }

    /// Writes the fields; true when the patient is in an episode.
    pub fn write_fields(&mut self, moment: Moment, rng: &mut Pcg64Mcg, out: &mut Vec<u8>) -> bool {
        if self.episode.step(moment, rng) {
            self.syndrome = rng.random_range(0..SYNDROMES.len());
        }
        let (severity, syndrome) = (self.episode.severity, &SYNDROMES[self.syndrome]);
        let heart_rate =
            (self.heart_rate_bpm + 3.0 * self.heart.step(rng) + syndrome.heart_rate_bpm * severity).clamp(25.0, 220.0);
        // Beats become irregular in an episode.
        let variability = 0.03 + 0.12 * severity;
        let rr_ms = 60_000.0 / heart_rate * (1.0 + variability * normal(rng));
        let st_mv = 0.01 * normal(rng) + syndrome.st_mv * severity;
        out.extend_from_slice(&self.patient);
        out.extend_from_slice(b",\"lead_name\":\"");
        out.extend_from_slice(self.lead);
        out.push(b'"');
        push_number(out, b",\"heart_rate_bpm\":", heart_rate, (25.0, 220.0), 1);
        push_count(out, b",\"rr_ms\":", rr_ms, (270.0, 2400.0));
        push_count(out, b",\"qrs_ms\":", self.qrs_ms * (1.0 + 0.3 * severity) + normal(rng), (60.0, 200.0));
        push_number(out, b",\"st_mv\":", st_mv, (-1.0, 1.0), 3);
        out.extend_from_slice(b",\"samples_uv\":[");
        // One noise per beat, turned through the steps: white enough, and eleven normals cheaper.
        let noise_uv = 12.0 * normal(rng);
        for (step, shape) in BEAT.iter().enumerate() {
            if step > 0 {
                out.push(b',');
            }
            let elevation_uv = if step >= ST_STEP { st_mv * 1_000.0 } else { 0.0 };
            let turned = if step % 3 == 0 { noise_uv } else { -0.5 * noise_uv };
            let sample_uv = self.amplitude_uv * shape + elevation_uv + turned;
            push_signed(out, sample_uv.clamp(-3_000.0, 3_000.0).round() as i64);
        }
        out.push(b']');
        self.episode.on
    }
}
