//! Which Spark is installed here, and where are the plugin and the job?

use petrel_core::InvalidValue;
use std::path::{Path, PathBuf};

/// Release of the plugin's jar, the same as of this program.
const PLUGIN_RELEASE: &str = env!("CARGO_PKG_VERSION");
const JAR_FOLDER: &str = "jvm/petrel-spark/target";
const JOB_FILE: &str = "spark/petrel_jobs/stream.py";
const CORE_JAR: &str = "spark-core_";
const CONNECTOR_JAR: &str = "spark-sql-kafka-0-10_";

/// Release of Spark and of the Scala that it was built with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Release {
    /// For example `3.5.7`.
    pub(crate) version: String,
    /// `2.12` or `2.13`.
    pub(crate) scala: String,
}

impl Release {
    /// Reads `3.5`, `4`, or a full version such as `3.5.7`; a short one stands for the release that Petrel is tested with.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let (version, scala) = match text {
            "3.5" => ("3.5.7", "2.12"),
            "4" | "4.2" => ("4.2.0", "2.13"),
            full if is_version(full) && full.starts_with("3.5.") => (full, "2.12"),
            full if is_version(full) && full.starts_with("4.") => (full, "2.13"),
            _ => return Err("expected 3.5, 4, or a full version of either such as 3.5.7".to_string()),
        };
        Ok(Self { version: version.to_string(), scala: scala.to_string() })
    }

    /// Name of the plugin's jar for this release.
    pub(crate) fn jar_name(&self) -> String {
        format!("petrel-spark_{}-{PLUGIN_RELEASE}.jar", self.scala)
    }

    /// Maven coordinates of Spark's Kafka connector of this release.
    pub(crate) fn connector(&self) -> String {
        format!("org.apache.spark:{CONNECTOR_JAR}{}:{}", self.scala, self.version)
    }
}

fn is_version(text: &str) -> bool {
    let numbers: Vec<&str> = text.split('.').collect();
    numbers.len() == 3 && numbers.iter().all(|number| !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit()))
}

/// A folder with Spark in it.
#[derive(Debug, Clone)]
pub(crate) struct SparkInstall {
    pub(crate) home: PathBuf,
    pub(crate) release: Release,
    /// True when Spark's own jars hold its Kafka connector.
    pub(crate) has_connector: bool,
}

impl SparkInstall {
    /// Looks into `home`, or into `SPARK_HOME` when there is none; `field` is the flag that errors name.
    pub(crate) fn find(field: &str, home: Option<&Path>) -> Result<Self, InvalidValue> {
        let expected = "the folder of a Spark 3.5 or 4 (with bin/spark-submit and jars/); of pip's pyspark that is \
                        site-packages/pyspark. SPARK_HOME is taken where the flag is missing";
        let from_environment = std::env::var_os("SPARK_HOME").filter(|path| !path.is_empty()).map(PathBuf::from);
        let Some(home) = home.map(Path::to_path_buf).or(from_environment) else {
            return Err(InvalidValue::new(field, "", expected));
        };
        let refuse = |_| InvalidValue::new(field, home.display(), expected);
        let home = home.canonicalize().map_err(refuse)?;
        let names = jar_names(&home.join("jars")).map_err(refuse)?;
        let core = names.iter().find_map(|name| name.strip_prefix(CORE_JAR)?.strip_suffix(".jar")?.split_once('-'));
        let release = core.and_then(|(_, version)| Release::parse(version).ok());
        match release.filter(|_| home.join("bin/spark-submit").is_file()) {
            Some(release) => {
                let has_connector = names.iter().any(|name| name.starts_with(CONNECTOR_JAR));
                Ok(Self { home, release, has_connector })
            }
            None => Err(InvalidValue::new(field, home.display(), expected)),
        }
    }

    /// The program that submits.
    pub(crate) fn spark_submit(&self) -> PathBuf {
        self.home.join("bin/spark-submit")
    }

    /// The Python that pip installed this Spark into, if it was pip and a virtual environment.
    pub(crate) fn python(&self) -> Option<PathBuf> {
        let python = self.home.join("../../../../bin/python3");
        let is_from_pip = self.home.ends_with("site-packages/pyspark");
        Some(python).filter(|python| is_from_pip && python.is_file())
    }
}

/// Jars of a folder, sorted by name.
pub(crate) fn jars_in(folder: &Path) -> std::io::Result<Vec<PathBuf>> {
    Ok(jar_names(folder)?.into_iter().map(|name| folder.join(name)).collect())
}

fn jar_names(folder: &Path) -> std::io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if name.ends_with(".jar") {
            names.push(name);
        }
    }
    names.sort_unstable();
    Ok(names)
}

/// The plugin's jar: `given`, or the one that was built in the source tree.
pub(crate) fn find_jar(field: &str, given: Option<&Path>, release: &Release) -> Result<PathBuf, InvalidValue> {
    let name = release.jar_name();
    let expected = format!(
        "the plugin's jar {name} for Spark {}; in Petrel's source tree `jvm/build.sh {}` builds it",
        release.version, release.scala
    );
    find_file(field, given, &Path::new(JAR_FOLDER).join(name), &expected)
}

/// The streaming job: `given`, or the one of the source tree.
pub(crate) fn find_job(field: &str, given: Option<&Path>) -> Result<PathBuf, InvalidValue> {
    let expected = format!("the Python file of a streaming job, such as {JOB_FILE} of Petrel's source tree");
    find_file(field, given, Path::new(JOB_FILE), &expected)
}

/// A file that was given, or that is below the working directory or below a folder that holds this program.
fn find_file(field: &str, given: Option<&Path>, usual: &Path, expected: &str) -> Result<PathBuf, InvalidValue> {
    let program = std::env::current_exe().unwrap_or_default();
    let places = match given {
        Some(path) => vec![path.to_path_buf()],
        None => {
            std::iter::once(usual.to_path_buf()).chain(program.ancestors().map(|above| above.join(usual))).collect()
        }
    };
    let found = places.iter().find(|path| path.is_file()).and_then(|path| path.canonicalize().ok());
    found.ok_or_else(|| InvalidValue::new(field, given.unwrap_or(usual).display(), expected))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_are_read_and_refused() {
        let read = |text| Release::parse(text).map(|release| (release.version, release.scala));
        let release = |version: &str, scala: &str| Ok((version.to_string(), scala.to_string()));
        assert_eq!(read("3.5"), release("3.5.7", "2.12"));
        assert_eq!(read("3.5.1"), release("3.5.1", "2.12"));
        assert_eq!(read("4"), release("4.2.0", "2.13"));
        assert_eq!(read("4.0.1"), release("4.0.1", "2.13"));
        for wrong in ["", "3", "3.4.1", "3.5.x", "4.1", "5", "3.5.7.1", "3.5."] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn an_install_is_known_by_its_jars() {
        let folder = tempfile::tempdir().unwrap();
        let home = folder.path();
        let error = SparkInstall::find("--spark-home", Some(home)).unwrap_err().to_string();
        assert!(error.starts_with("--spark-home: got `") && error.contains("bin/spark-submit"), "{error}");
        for folder in ["bin", "jars"] {
            std::fs::create_dir(home.join(folder)).unwrap();
        }
        for file in ["bin/spark-submit", "jars/spark-core_2.13-4.2.0.jar", "jars/a.txt"] {
            std::fs::write(home.join(file), "").unwrap();
        }
        let install = SparkInstall::find("--spark-home", Some(home)).unwrap();
        assert_eq!(install.release.jar_name(), format!("petrel-spark_2.13-{PLUGIN_RELEASE}.jar"));
        assert!(!install.has_connector && install.python().is_none());
        std::fs::write(home.join("jars/spark-sql-kafka-0-10_2.13-4.2.0.jar"), "").unwrap();
        assert!(SparkInstall::find("--spark-home", Some(home)).unwrap().has_connector);
        std::fs::rename(home.join("jars/spark-core_2.13-4.2.0.jar"), home.join("jars/spark-core_2.12-3.1.0.jar"))
            .unwrap();
        assert!(SparkInstall::find("--spark-home", Some(home)).is_err());
    }

    #[test]
    fn a_missing_jar_names_the_command_that_builds_it() {
        let release = Release::parse("3.5").unwrap();
        let error = find_jar("--jar", Some(Path::new("absent.jar")), &release).unwrap_err().to_string();
        assert!(error.starts_with("--jar: got `absent.jar`") && error.contains("jvm/build.sh 2.12"), "{error}");
    }
}
