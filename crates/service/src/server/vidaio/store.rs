//! The store: results in a bucket of an S3-compatible service, behind addresses that need no key.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use axum::http::Method;
use object_store::ObjectStore;
use object_store::aws::{AmazonS3, AmazonS3Builder};
use object_store::path::Path as Object;
use object_store::signer::Signer;
use object_store::{Attribute, Attributes, ClientOptions, ObjectStoreExt, PutMultipartOptions, WriteMultipart};

use upscaled_core::config::settings::ServiceSettings;
use upscaled_core::fault::Fault;

use super::service::blocking;
use super::store_variables::StoreVariables;

/// Addresses are good for so long, the longest that S3 knows; the object goes with its request.
pub(super) const ADDRESS_LIFE: Duration = Duration::from_secs(7 * 86_400);
/// Bytes of a part of an upload, and parts under way.
const PART: usize = 8 << 20;
const PARTS_MAX: usize = 3;
/// Folder of the bucket.
const FOLDER: &str = "upscaled";

/// A result in the store.
pub(super) struct Stored {
    pub object: String,
    pub url: String,
}

/// A bucket.
#[derive(Clone)]
pub(super) struct Store(Arc<AmazonS3>);

impl Store {
    /// The store that is configured, if one is.
    ///
    /// # Errors
    /// [`Fault::Config`] for half a configuration.
    pub(super) fn open(settings: &ServiceSettings, variables: &StoreVariables) -> Result<Option<Store>> {
        crate::tls::init();
        let Some(bucket) = variables.bucket(settings)? else { return Ok(None) };
        let Some((access, secret)) = variables.access_key(settings)?.zip(variables.secret_key(settings)?) else {
            return Err(Fault::Config.because(format!(
                "the store's bucket {bucket} is named, but not both of its keys: set store_access_key and \
                 store_secret_key"
            )));
        };
        let mut builder = AmazonS3Builder::new()
            .with_bucket_name(&bucket)
            .with_region(variables.region(settings))
            .with_access_key_id(access)
            .with_secret_access_key(secret);
        if let Some(url) = variables.endpoint(settings)? {
            let plain = url.starts_with("http://");
            builder = builder
                .with_endpoint(url)
                .with_virtual_hosted_style_request(false)
                .with_client_options(ClientOptions::new().with_allow_http(plain));
        }
        let store = builder.build().map_err(|error| Fault::Config.because(format!("the store {bucket}: {error}")))?;
        Ok(Some(Store(Arc::new(store))))
    }

    /// Puts a file there under a name that holds `secret`.
    pub(super) async fn put(&self, file: &Path, secret: &str) -> Result<Stored> {
        let object = Object::from(format!("{FOLDER}/{secret}.mp4"));
        let attributes = Attributes::from_iter([(Attribute::ContentType, "video/mp4")]);
        let options = PutMultipartOptions { attributes, ..PutMultipartOptions::default() };
        let upload = self.0.put_multipart_opts(&object, options).await.context("the store takes no upload")?;
        let mut write = WriteMultipart::new_with_chunk_size(upload, PART);
        match feed(file, &mut write).await {
            Ok(()) => drop(write.finish().await.context("the store did not take the whole upload")?),
            Err(error) => {
                let _ = write.abort().await;
                return Err(error);
            }
        }
        let url = self.0.signed_url(Method::GET, &object, ADDRESS_LIFE).await.context("signing an address")?;
        Ok(Stored { object: object.to_string(), url: url.into() })
    }

    /// Removes an object; one that is gone is as good.
    pub(super) async fn delete(&self, object: &str) -> Result<()> {
        match self.0.delete(&Object::from(object)).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(error).context("removing an object"),
        }
    }
}

async fn feed(file: &Path, write: &mut WriteMultipart) -> Result<()> {
    use std::os::unix::fs::FileExt;
    let path = file.to_owned();
    let file = blocking(move || Ok(Arc::new(std::fs::File::open(path)?))).await?;
    let length = file.metadata()?.len();
    let mut at = 0;
    while at < length {
        let count = usize::try_from(length - at).unwrap_or(PART).min(PART);
        let from = file.clone();
        let piece = blocking(move || {
            let mut piece = vec![0; count];
            from.read_exact_at(&mut piece, at)?;
            Ok(piece)
        })
        .await?;
        write.wait_for_capacity(PARTS_MAX).await.context("the store broke the upload off")?;
        write.put(piece.into());
        at += count as u64;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use upscaled_core::config::settings::Secret;

    #[test]
    fn half_a_configuration_is_told_and_keys_are_not() {
        let none = StoreVariables::default();
        assert!(Store::open(&ServiceSettings::default(), &none).unwrap().is_none());
        let mut settings = ServiceSettings { store_bucket: Some("b".into()), ..ServiceSettings::default() };
        settings.store_secret_key = Some(Secret("very-secret".into()));
        let error = Store::open(&settings, &none).err().unwrap();
        assert_eq!(Fault::of(&error), Fault::Config);
        assert!(error.to_string().contains("store_access_key") && !format!("{settings:?}").contains("very-secret"));
        let variables = StoreVariables::of([("BUCKET_COMPATIBLE_ACCESS_KEY".into(), "a".into())]);
        assert!(Store::open(&settings, &variables).unwrap().is_some());
    }

    #[tokio::test(flavor = "current_thread")]
    async fn addresses_are_signed_for_a_week() {
        let settings = ServiceSettings {
            store_bucket: Some("b".into()),
            store_endpoint: Some("store.example:9000".into()),
            store_access_key: Some(Secret("id".into())),
            store_secret_key: Some(Secret("key".into())),
            ..ServiceSettings::default()
        };
        let store = Store::open(&settings, &StoreVariables::default()).unwrap().unwrap();
        let url = store.0.signed_url(Method::GET, &Object::from("a/b.mp4"), ADDRESS_LIFE).await.unwrap();
        assert!(url.as_str().starts_with("https://store.example:9000/b/a/b.mp4?"), "{url}");
        assert!(url.query().unwrap().contains("X-Amz-Expires=604800"), "{url}");
    }
}
