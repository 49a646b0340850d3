//! What do traffic loops, air-quality stations and car parks report?

use super::{Episode, Moment, Traits, Wander, daily_activity, normal, push_count, push_number, whole_with_mean};
use crate::fleet::json_text::push_fixed;
use rand::RngExt;
use rand_pcg::Pcg64Mcg;

/// Kinds in the order in which devices get them: 50 % traffic, 30 % air quality, 20 % parking.
pub const KINDS: [&str; 10] = [
    "traffic",
    "air-quality",
    "traffic",
    "parking",
    "traffic",
    "air-quality",
    "traffic",
    "parking",
    "traffic",
    "air-quality",
];

fn area(rng: &mut Pcg64Mcg) -> String {
    format!("district-{:02}", rng.random_range(1..=12))
}

fn place(rng: &mut Pcg64Mcg) -> Vec<u8> {
    let mut text = b",\"latitude\":".to_vec();
    push_fixed(&mut text, rng.random_range(45.9..46.5), 5);
    text.extend_from_slice(b",\"longitude\":");
    push_fixed(&mut text, rng.random_range(5.9..6.5), 5);
    text
}

/// A loop under a road: flow follows the day, speed falls as flow nears capacity, an incident stops both.
#[derive(Debug, Clone)]
pub struct Traffic {
    capacity_per_min: f64,
    limit_kmh: f64,
    flow: Wander,
    speed: Wander,
    heavy_pct: f64,
    incident: Episode,
    queue_m: f64,
    place: Vec<u8>,
}

impl Traffic {
    /// A loop somewhere in the city.
    pub fn new(rng: &mut Pcg64Mcg) -> (Self, Traits) {
        let road = rng.random_range(0..3);
        let limit_kmh = [30.0, 50.0, 80.0][road];
        let traffic = Self {
            capacity_per_min: [25.0, 55.0, 95.0][road] * rng.random_range(0.8..1.2),
            limit_kmh,
            flow: Wander::new(0.9, rng),
            speed: Wander::new(0.8, rng),
            heavy_pct: rng.random_range(3.0..18.0),
            incident: Episode::new(0.01, 60.0, rng),
            queue_m: 0.0,
            place: place(rng),
        };
        let traits = Traits {
            area: area(rng),
            model: format!("loop-{}", road + 1),
            limit_low: 8.0,
            limit_high: limit_kmh * 1.5,
        };
        (traffic, traits)
    }

    /// Writes the fields; true when the reading is abnormal.
    pub fn write_fields(&mut self, moment: Moment, rng: &mut Pcg64Mcg, out: &mut Vec<u8>) -> bool {
        self.incident.step(moment, rng);
        let blocked = self.incident.severity;
        let load = (daily_activity(moment.hour()) * (1.0 + 0.12 * self.flow.step(rng))).clamp(0.0, 1.0);
        let flow = self.capacity_per_min * load * (1.0 - 0.85 * blocked);
        let free_kmh = self.limit_kmh * (1.0 - 0.45 * load * load) * (1.0 + 0.06 * self.speed.step(rng));
        let jam_kmh = 4.0 + rng.random_range(0.0..2.0);
        let speed_kmh = free_kmh + (jam_kmh - free_kmh) * blocked;
        // Flow is density times speed; a vehicle covers about 0.6 % of a lane kilometre.
        let occupancy_pct = (flow * 60.0 / speed_kmh.max(3.0) * 0.6).max(65.0 * blocked);
        let growth_m_per_s = if self.incident.on { 3.0 } else { -6.0 };
        self.queue_m = (self.queue_m + growth_m_per_s * moment.since_last_s).clamp(0.0, 500.0);
        push_count(out, b",\"vehicle_count\":", flow, (0.0, 120.0));
        push_number(out, b",\"speed_kmh\":", speed_kmh, (0.0, 130.0), 1);
        push_number(out, b",\"lane_occupancy_pct\":", occupancy_pct, (0.0, 100.0), 1);
        push_number(out, b",\"heavy_pct\":", self.heavy_pct * (1.0 + 0.1 * normal(rng)), (0.0, 100.0), 1);
        push_count(out, b",\"queue_m\":", self.queue_m, (0.0, 500.0));
        out.extend_from_slice(&self.place);
        speed_kmh < 8.0
    }
}

/// A measuring station: dust and gases follow traffic, sun and weather; an episode is smoke or an inversion.
#[derive(Debug, Clone)]
pub struct AirQuality {
    dust_ugm3: f64,
    coarse: f64,
    dust: Wander,
    gas: Wander,
    weather: Wander,
    episode: Episode,
    peak_ugm3: f64,
}

impl AirQuality {
    /// A station somewhere in the city.
    pub fn new(rng: &mut Pcg64Mcg) -> (Self, Traits) {
        let station = Self {
            dust_ugm3: rng.random_range(6.0..16.0),
            coarse: rng.random_range(1.3..2.2),
            dust: Wander::new(0.97, rng),
            gas: Wander::new(0.95, rng),
            weather: Wander::new(0.999, rng),
            episode: Episode::new(0.015, 120.0, rng),
            peak_ugm3: rng.random_range(60.0..140.0),
        };
        let model = format!("air-{}", rng.random_range(1..=3));
        (station, Traits { area: area(rng), model, limit_low: 0.0, limit_high: 55.0 })
    }

    /// Writes the fields; true when the reading is abnormal.
    pub fn write_fields(&mut self, moment: Moment, rng: &mut Pcg64Mcg, out: &mut Vec<u8>) -> bool {
        if self.episode.step(moment, rng) {
            self.peak_ugm3 = rng.random_range(60.0..140.0);
        }
        let hour = moment.hour();
        let traffic = daily_activity(hour);
        let sun = (1.0 - ((hour - 13.5) / 6.5).powi(2)).max(0.0);
        let weather = self.weather.step(rng);
        let background = self.dust_ugm3 * (1.0 + 0.6 * traffic) * (1.0 + 0.25 * self.dust.step(rng)).max(0.1);
        let pm25 = background + self.peak_ugm3 * self.episode.severity;
        let no2 = (12.0 + 45.0 * traffic) * (1.0 + 0.2 * self.gas.step(rng)).max(0.1);
        let o3 = (35.0 + 90.0 * sun - 0.5 * no2 + 4.0 * normal(rng)).max(0.0);
        let co = 0.25 + 0.02 * no2 + 0.01 * self.peak_ugm3 * self.episode.severity;
        let temperature_c = 11.0 + 6.0 * sun + 4.0 * weather + 0.1 * normal(rng);
        let humidity_pct = 72.0 - 20.0 * sun - 6.0 * weather + 0.5 * normal(rng);
        push_number(out, b",\"pm25_ugm3\":", pm25, (0.0, 500.0), 1);
        push_number(out, b",\"pm10_ugm3\":", pm25 * self.coarse, (0.0, 800.0), 1);
        push_number(out, b",\"no2_ugm3\":", no2, (0.0, 400.0), 1);
        push_number(out, b",\"o3_ugm3\":", o3, (0.0, 400.0), 1);
        push_number(out, b",\"co_mgm3\":", co, (0.0, 30.0), 2);
        push_number(out, b",\"temperature_c\":", temperature_c, (-30.0, 50.0), 1);
        push_number(out, b",\"humidity_pct\":", humidity_pct, (0.0, 100.0), 1);
        pm25 > 55.0
    }
}

/// A car park: vehicles come and go so that it nears the occupancy of the hour. Time is compressed 60 times (a stay of
/// an hour takes a minute), so that a short session shows it filling.
#[derive(Debug, Clone)]
pub struct Parking {
    spaces: f64,
    occupied: f64,
    popularity: f64,
    stay_min: f64,
    event: Episode,
    place: Vec<u8>,
}

impl Parking {
    /// A car park somewhere in the city.
    pub fn new(rng: &mut Pcg64Mcg) -> (Self, Traits) {
        let spaces = f64::from(rng.random_range(20..=400));
        let popularity = rng.random_range(0.4..0.9);
        let park = Self {
            spaces,
            occupied: (spaces * popularity * rng.random_range(0.3..0.9)).round(),
            popularity,
            stay_min: rng.random_range(25.0..90.0),
            event: Episode::new(0.03, 120.0, rng),
            place: place(rng),
        };
        let model = format!("gate-{}", rng.random_range(1..=2));
        (park, Traits { area: area(rng), model, limit_low: 0.0, limit_high: 97.0 })
    }

    /// Writes the fields; true when the reading is abnormal.
    pub fn write_fields(&mut self, moment: Moment, rng: &mut Pcg64Mcg, out: &mut Vec<u8>) -> bool {
        self.event.step(moment, rng);
        let usual = self.popularity * (0.25 + 0.75 * daily_activity(moment.hour()));
        let wanted = self.spaces * (usual + (1.2 - usual) * self.event.severity);
        let stays = moment.since_last_s / self.stay_min;
        let entered = whole_with_mean(wanted * stays, rng).min(20.0).min(self.spaces - self.occupied);
        let departed = whole_with_mean(self.occupied * stays, rng).min(20.0).min(self.occupied);
        self.occupied += entered - departed;
        let occupancy_pct = 100.0 * self.occupied / self.spaces;
        push_count(out, b",\"spaces_total\":", self.spaces, (20.0, 400.0));
        push_count(out, b",\"spaces_occupied\":", self.occupied, (0.0, self.spaces));
        push_number(out, b",\"occupancy_pct\":", occupancy_pct, (0.0, 100.0), 1);
        push_count(out, b",\"entered\":", entered, (0.0, 20.0));
        push_count(out, b",\"departed\":", departed, (0.0, 20.0));
        push_number(out, b",\"stay_min\":", self.stay_min * (1.0 + 0.1 * normal(rng)), (1.0, 1440.0), 1);
        out.extend_from_slice(&self.place);
        occupancy_pct > 97.0
    }
}
