//! `--set FIELD=VALUE`: any setting of a learner or its task from the command line.

use petrel_core::InvalidValue;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// Settings as JSON, to be changed field by field and read back.
pub(super) struct Settings(Vec<Value>);

impl Settings {
    /// Nothing to set yet.
    pub(super) fn new() -> Self {
        Self(Vec::new())
    }

    /// Adds settings whose fields may be set.
    pub(super) fn with(mut self, settings: impl Serialize) -> Result<Self, InvalidValue> {
        self.0.push(serde_json::to_value(settings).map_err(|error| not_of_its_kind(&error))?);
        Ok(self)
    }

    /// Sets each FIELD=VALUE in the first settings that have the field; one inside of another is `improve.horizon`.
    pub(super) fn set(&mut self, pairs: &[String]) -> Result<(), InvalidValue> {
        for pair in pairs {
            let (field, text) = pair
                .split_once('=')
                .ok_or_else(|| InvalidValue::new("--set", pair, "FIELD=VALUE, for example epochs=4"))?;
            let value = serde_json::from_str(text).map_err(|error| {
                InvalidValue::new(format!("--set {field}"), text, format!("a value as JSON ({error})"))
            })?;
            let pointer = format!("/{}", field.replace('.', "/"));
            let Some(place) = self.0.iter_mut().find_map(|settings| settings.pointer_mut(&pointer)) else {
                let fields: Vec<String> = self.0.iter().flat_map(fields).collect();
                return Err(InvalidValue::new("--set", field, format!("one of {}", fields.join(", "))));
            };
            *place = value;
        }
        Ok(())
    }

    /// The settings that were added first of those that are left.
    pub(super) fn take<T: DeserializeOwned>(&mut self) -> Result<T, InvalidValue> {
        serde_json::from_value(self.0.remove(0)).map_err(|error| not_of_its_kind(&error))
    }
}

fn not_of_its_kind(error: &serde_json::Error) -> InvalidValue {
    InvalidValue::new("--set", error, "a value of the field's kind, as JSON")
}

/// Names of all fields, those inside of others with a dot.
fn fields(settings: &Value) -> Vec<String> {
    let parts = settings.as_object().into_iter().flatten();
    parts
        .flat_map(|(name, part)| match part.as_object() {
            Some(inner) => inner.keys().map(|field| format!("{name}.{field}")).collect(),
            None => vec![name.clone()],
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use petrel_learn::online::OnlineSettings;

    fn set(text: &str) -> Result<OnlineSettings, InvalidValue> {
        let mut settings = Settings::new().with(OnlineSettings::default())?;
        settings.set(&[text.to_string()])?;
        settings.take()
    }

    #[test]
    fn a_setting_inside_of_another_is_reached_by_its_path() {
        assert_eq!(set("improve.horizon=6").unwrap().improve.horizon, 6);
    }

    #[test]
    fn a_wrong_setting_is_answered_with_what_is_expected() {
        for (text, start, expected) in [
            ("horizon=6", "--set: got `horizon`", "improve.horizon"),
            ("improve.horizon", "--set: got `improve.horizon`", "FIELD=VALUE"),
            ("improve.horizon=six", "--set improve.horizon: got `six`", "a value as JSON"),
            ("improve.horizon=\"six\"", "--set: got `invalid type", "a value of the field's kind"),
        ] {
            let error = set(text).unwrap_err().to_string();
            assert!(error.starts_with(start) && error.contains(expected), "{text}: {error}");
        }
    }
}
