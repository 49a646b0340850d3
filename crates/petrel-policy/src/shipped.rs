//! Which trained policies come with Petrel? Files of `petrel train`, each with the command that made it inside.

use crate::policies::{Learned, LearnedClassic};
use petrel_core::InvalidValue;
use std::sync::{Mutex, PoisonError};

/// Policies of the world `queue`, which also decide for a live job: name and file.
pub const SHIPPED: [(&str, &[u8]); 5] = [
    ("ppo", include_bytes!("../policies/ppo.safetensors")),
    ("ppo-spark", include_bytes!("../policies/ppo-spark.safetensors")),
    ("ppo+td3", include_bytes!("../policies/ppo+td3.safetensors")),
    ("ppo-lagrangian", include_bytes!("../policies/ppo-lagrangian.safetensors")),
    ("dqn", include_bytes!("../policies/dqn.safetensors")),
];

/// The policy of the world `classic`.
const CLASSIC: &[u8] = include_bytes!("../policies/classic-ppo.safetensors");

/// The shipped policy that `learned` stands for: the one that did best on the validation split.
pub const LEARNED: &str = "ppo";

/// Policies that were asked for, in the order of [`SHIPPED`].
static READ: Mutex<[Option<Learned>; SHIPPED.len()]> = Mutex::new([const { None }; SHIPPED.len()]);

/// The shipped policy called `name`; `learned` is [`LEARNED`]. Policies of one name share the parameters of their networks, so
/// that thousands of jobs may have one each.
///
/// # Errors
/// [`InvalidValue`] that lists the names there are.
pub fn shipped(name: &str) -> Result<Learned, InvalidValue> {
    let wanted = if name == "learned" { LEARNED } else { name };
    let Some(index) = SHIPPED.iter().position(|(known, _)| *known == wanted) else {
        let names: Vec<&str> = SHIPPED.iter().map(|(name, _)| *name).collect();
        return Err(InvalidValue::new("trained policy", name, format!("learned, {}", names.join(", "))));
    };
    let read = &mut READ.lock().unwrap_or_else(PoisonError::into_inner)[index];
    if let Some(policy) = read {
        return Ok(policy.clone());
    }
    let policy = Learned::load(SHIPPED[index].1)?;
    *read = Some(policy.clone());
    Ok(policy)
}

/// The shipped policy of the world `classic`; one network for all scenarios.
///
/// # Errors
/// [`InvalidValue`] when the file does not fit, which a test rules out.
pub fn shipped_classic() -> Result<LearnedClassic, InvalidValue> {
    LearnedClassic::load(CLASSIC)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_observation::quiet;
    use petrel_core::Policy;

    #[test]
    fn every_shipped_file_decides_under_its_name() {
        for (name, _) in SHIPPED {
            let mut policy = shipped(name).unwrap();
            assert_eq!(policy.name(), name);
            assert!(policy.settings().made_by.starts_with("petrel train "), "{name}: {}", policy.settings().made_by);
            assert!(policy.decide(&quiet()).action.executors <= 20);
        }
        assert_eq!(shipped("learned").unwrap().name(), LEARNED);
        assert!(shipped_classic().unwrap().settings().made_by.starts_with("petrel train --world classic"));
        let error = shipped("magic").unwrap_err().to_string();
        assert_eq!(
            error,
            "trained policy: got `magic`, expected learned, ppo, ppo-spark, ppo+td3, ppo-lagrangian, dqn"
        );
    }
}
