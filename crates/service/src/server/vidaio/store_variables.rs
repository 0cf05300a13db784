//! The variables by which miners of this service name their store: those of earlier ones and those of the current one.

use anyhow::Result;

use upscaled_core::config::settings::{Secret, ServiceSettings};
use upscaled_core::fault::Fault;

const BUCKET: [&str; 2] = ["BUCKET_NAME", "MINER_STORAGE_S3_BUCKET_NAME"];
const ENDPOINT: [&str; 3] =
    ["BUCKET_COMPATIBLE_ENDPOINT", "MINER_STORAGE_S3_ENDPOINT_URL", "MINER_STORAGE_S3_ENDPOINT"];
const ACCESS_KEY: [&str; 2] = ["BUCKET_COMPATIBLE_ACCESS_KEY", "MINER_STORAGE_S3_ACCESS_KEY_ID"];
const SECRET_KEY: [&str; 2] = ["BUCKET_COMPATIBLE_SECRET_KEY", "MINER_STORAGE_S3_SECRET_ACCESS_KEY"];
const REGION: &str = "MINER_STORAGE_S3_REGION";
/// `backblaze` (any S3), `amazon_s3`, `cloudflare`, `hippius`.
const KIND: &str = "BUCKET_TYPE";

/// What is set of them.
#[derive(Clone, Debug, Default)]
pub struct StoreVariables(Vec<(&'static str, Secret)>);

impl StoreVariables {
    pub fn of_environment() -> StoreVariables {
        let text = |name: &std::ffi::OsStr| name.to_str().map(str::to_owned);
        StoreVariables::of(std::env::vars_os().filter_map(|(name, value)| Some((text(&name)?, text(&value)?))))
    }

    /// Of these variables those that name a store; what is empty is not set.
    pub fn of(all: impl IntoIterator<Item = (String, String)>) -> StoreVariables {
        let known = [&BUCKET[..], &ENDPOINT, &ACCESS_KEY, &SECRET_KEY, &[REGION, KIND]].concat();
        let known = |(name, value): (String, String)| {
            let name = known.iter().find(|known| **known == name)?;
            let value = value.trim();
            (!value.is_empty()).then(|| (*name, Secret(value.to_owned())))
        };
        StoreVariables(all.into_iter().filter_map(known).collect())
    }

    /// # Errors
    /// [`Fault::Config`] where two variables contradict each other, here and below.
    pub fn bucket(&self, settings: &ServiceSettings) -> Result<Option<String>> {
        self.one(settings.store_bucket.clone(), "store_bucket", &BUCKET, str::to_owned)
    }

    pub fn access_key(&self, settings: &ServiceSettings) -> Result<Option<String>> {
        let set = settings.store_access_key.clone().map(|key| key.0);
        self.one(set, "store_access_key", &ACCESS_KEY, str::to_owned)
    }

    pub fn secret_key(&self, settings: &ServiceSettings) -> Result<Option<String>> {
        let set = settings.store_secret_key.clone().map(|key| key.0);
        self.one(set, "store_secret_key", &SECRET_KEY, str::to_owned)
    }

    /// The address as a URL.
    pub fn endpoint(&self, settings: &ServiceSettings) -> Result<Option<String>> {
        let url = |address: &str| {
            let url = if address.contains("://") { address.to_owned() } else { format!("https://{address}") };
            url.trim_end_matches('/').to_owned()
        };
        self.one(settings.store_endpoint.clone(), "store_endpoint", &ENDPOINT, url)
    }

    /// The setting's, unless the bucket is the variables' and they tell another one.
    pub fn region(&self, settings: &ServiceSettings) -> String {
        let is_default = settings.store_region == ServiceSettings::default().store_region;
        let told = match self.value(REGION).filter(|_| is_default) {
            None if self.value(KIND) == Some("cloudflare") => Some("auto"),
            told => told,
        };
        told.filter(|_| settings.store_bucket.is_none()).unwrap_or(&settings.store_region).to_owned()
    }

    fn value(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(known, _)| *known == name).map(|(_, value)| value.0.as_str())
    }

    /// Returns what is set, or what the variables say, as `form` has it.
    fn one(
        &self,
        set: Option<String>,
        setting: &str,
        names: &[&'static str],
        form: impl Fn(&str) -> String,
    ) -> Result<Option<String>> {
        if let Some(set) = set {
            return Ok(Some(form(&set)));
        }
        let mut told = names.iter().filter_map(|name| Some((*name, form(self.value(name)?))));
        let Some((first, value)) = told.next() else { return Ok(None) };
        match told.find(|(_, other)| *other != value) {
            Some((second, _)) => Err(Fault::Config.because(format!(
                "the environment names two stores: {first} and {second} differ; unset one of them, or set {setting}"
            ))),
            None => Ok(Some(value)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(all: &[(&str, &str)]) -> StoreVariables {
        StoreVariables::of(all.iter().map(|(name, value)| (name.to_string(), value.to_string())))
    }

    #[test]
    fn both_sets_are_understood() {
        let none = ServiceSettings::default();
        let earlier = [
            ("BUCKET_NAME", "b"),
            ("BUCKET_COMPATIBLE_ENDPOINT", "s.example:9000/"),
            ("BUCKET_COMPATIBLE_ACCESS_KEY", "k"),
            ("BUCKET_COMPATIBLE_SECRET_KEY", "very-secret"),
        ];
        let current = [
            ("MINER_STORAGE_S3_BUCKET_NAME", " b "),
            ("MINER_STORAGE_S3_ENDPOINT_URL", "https://s.example:9000"),
            ("MINER_STORAGE_S3_ACCESS_KEY_ID", "k"),
            ("MINER_STORAGE_S3_SECRET_ACCESS_KEY", "very-secret"),
        ];
        let empty = current.map(|(name, _)| (name, " "));
        for set in [&earlier[..], &current, &[earlier, current].concat(), &[earlier, empty].concat()] {
            let set = of(set);
            assert_eq!(set.bucket(&none).unwrap().as_deref(), Some("b"));
            assert_eq!(set.endpoint(&none).unwrap().as_deref(), Some("https://s.example:9000"));
            assert_eq!(set.access_key(&none).unwrap().as_deref(), Some("k"));
            assert_eq!(set.secret_key(&none).unwrap().as_deref(), Some("very-secret"));
            assert_eq!(set.region(&none), "us-east-1");
            assert!(!format!("{set:?}").contains("very-secret"));
        }
        let also = of(&[("MINER_STORAGE_S3_ENDPOINT", "http://s"), ("OTHER_BUCKET_NAME", "x")]);
        assert_eq!((also.endpoint(&none).unwrap().as_deref(), also.bucket(&none).unwrap()), (Some("http://s"), None));
        // Those that differ are an error, unless a setting decides; no value is told
        for (at, (name, _)) in current.iter().enumerate() {
            let mut both = [earlier, current].concat();
            both[4 + at].1 = "other-secret";
            let both = of(&both);
            let all = |settings: &ServiceSettings| {
                [both.bucket(settings), both.endpoint(settings), both.access_key(settings), both.secret_key(settings)]
            };
            let [error] = &all(&none).into_iter().filter_map(Result::err).collect::<Vec<_>>()[..] else { panic!() };
            assert_eq!(Fault::of(error), Fault::Config);
            let words = error.to_string();
            assert!(words.contains(name) && words.contains(earlier[at].0), "{words}");
            assert!(!words.contains("other-secret") && !words.contains("very-secret"), "{words}");
            let settings = ServiceSettings {
                store_bucket: Some("mine".into()),
                store_endpoint: Some("mine".into()),
                store_access_key: Some(Secret("mine".into())),
                store_secret_key: Some(Secret("mine".into())),
                ..ServiceSettings::default()
            };
            assert!(all(&settings).into_iter().all(|value| value.unwrap().unwrap().contains("mine")));
        }
    }

    #[test]
    fn regions() {
        let none = ServiceSettings::default();
        let set = ServiceSettings { store_region: "eu-west-1".into(), ..ServiceSettings::default() };
        let own = ServiceSettings { store_bucket: Some("mine".into()), ..ServiceSettings::default() };
        let (told, cloudflare) = (of(&[(REGION, "us-west-004")]), of(&[(KIND, "cloudflare")]));
        assert_eq!(
            [&none, &set, &own].map(|settings| told.region(settings)),
            ["us-west-004", "eu-west-1", "us-east-1"]
        );
        assert_eq!([&none, &own].map(|settings| cloudflare.region(settings)), ["auto", "us-east-1"]);
        assert_eq!(of(&[(REGION, "us-west-004"), (KIND, "cloudflare")]).region(&none), "us-west-004");
    }
}
