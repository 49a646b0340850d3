//! The classic world gives what an independent implementation of its published formulas gives (`golden/make_classic.py`).

use petrel_core::{Codec, Tier, Weights};
use petrel_sim::classic::{ClassicAction, ClassicDraws, ClassicState, ClassicWorld, OBSERVATION};

const GOLDEN: &str = include_str!("golden/classic.csv");

struct Row(Vec<f64>);

impl Row {
    fn action(&self) -> ClassicAction {
        ClassicAction {
            executors: self.0[7] as u32,
            memory_gb: self.0[8] as u32,
            tier: Tier::ALL[self.0[9] as usize],
            codec: Codec::ALL[self.0[10] as usize],
        }
    }

    fn draws(&self) -> ClassicDraws {
        let [burst, factor, volume, shuffle_share, temperature] = [11, 12, 13, 14, 15].map(|column| self.0[column]);
        ClassicDraws { burst, factor, volume, shuffle_share, temperature }
    }

    fn state(&self, first_column: usize) -> ClassicState {
        ClassicState {
            next_workload: self.0[first_column],
            volume_mb: self.0[first_column + 1],
            shuffle_mb: self.0[first_column + 2],
            temperature: self.0[first_column + 3],
        }
    }

    fn world(&self) -> ClassicWorld {
        let weights = Weights { cost: self.0[0], latency: self.0[1], throughput: self.0[2] };
        let mut world = ClassicWorld::new(weights, 0);
        world.set_state(self.state(3));
        world
    }
}

fn rows() -> Vec<Row> {
    let parse = |line: &str| Row(line.split(',').map(|value| value.parse().unwrap_or(f64::NAN)).collect());
    GOLDEN.lines().skip(1).map(parse).collect()
}

fn assert_near(what: &str, row: usize, got: f64, want: f64) {
    assert!((got - want).abs() <= 1e-9 * want.abs().max(1.0), "row {row}: {what} is {got}, the reference says {want}");
}

#[test]
fn every_golden_step_is_reproduced() {
    let rows = rows();
    assert!(rows.len() > 200);
    for (number, row) in rows.iter().enumerate() {
        let mut world = row.world();
        let step = world.step_with(row.action(), &row.draws());
        assert_near("reward", number, step.reward, row.0[16]);
        assert_near("cost", number, step.cost_usd_per_hour, row.0[17]);
        assert_near("latency", number, step.latency_ms, row.0[18]);
        assert_near("throughput", number, step.throughput, row.0[19]);
        let observation = world.observe();
        assert_eq!(observation.len(), OBSERVATION);
        for (got, want) in observation.iter().zip(&row.0[20..]) {
            assert_near("observation entry", number, *got, *want);
        }
        let (state, want) = (world.state(), row.state(33));
        assert_near("next workload", number, state.next_workload, want.next_workload);
        assert_near("next volume", number, state.volume_mb, want.volume_mb);
        assert_near("next shuffle", number, state.shuffle_mb, want.shuffle_mb);
        assert_near("next temperature", number, state.temperature, want.temperature);
    }
}

#[test]
fn a_chain_of_steps_stays_on_the_golden_chain() {
    let rows = rows();
    let mut world = rows[0].world();
    for (number, row) in rows.iter().take(20).enumerate() {
        assert_near("announced workload", number, world.announced_workload(), row.0[3]);
        world.step_with(row.action(), &row.draws());
    }
    assert_near("last workload", 19, world.announced_workload(), rows[19].0[33]);
}
