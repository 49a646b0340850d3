//! Are the settings in docs/policies.md those that there are, with their defaults?

use petrel_policy::PolicySettings;

#[test]
fn the_documented_settings_are_all_there_are_with_their_defaults() {
    let documented = include_str!("../../../docs/policies.md");
    let block = documented.split("```toml\n").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
    let defaults = toml::to_string(&PolicySettings::default()).unwrap();
    let parsed: toml::Table = toml::from_str(block).unwrap();
    assert_eq!(parsed, toml::from_str::<toml::Table>(&defaults).unwrap(), "the defaults are:\n\n{defaults}");
    assert_eq!(toml::from_str::<PolicySettings>(block).unwrap(), PolicySettings::default());
}
