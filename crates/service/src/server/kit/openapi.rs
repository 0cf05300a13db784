//! `/openapi.json`: what a listener offers, for programs. Each document is kept by hand beside the router that it
//! tells of, and held against it by the tests here.

use axum::http::HeaderName;
use axum::http::header::CONTENT_TYPE;

/// An OpenAPI 3.1 document, as a listener's answer.
pub type Document = ([(HeaderName, &'static str); 1], &'static str);

/// The answer with this text.
pub fn answer(text: &'static str) -> Document {
    ([(CONTENT_TYPE, "application/json")], text)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::Value;

    /// A listener.
    struct Listener {
        /// The source of its router, and the function in it.
        source: &'static str,
        router: &'static str,
        document: &'static str,
        /// Paths of the page, which is for people.
        page: &'static [&'static str],
    }

    const LISTENERS: [Listener; 4] = [
        Listener {
            source: include_str!("../control_api/mod.rs"),
            router: "fn routes(",
            document: include_str!("../control_api/openapi.json"),
            page: &["/", "/app.js", "/style.css", "/icon.svg"],
        },
        Listener {
            source: include_str!("../image_api/mod.rs"),
            router: "fn resources(",
            document: include_str!("../image_api/openapi.json"),
            page: &[],
        },
        Listener {
            source: include_str!("../vidaio/mod.rs"),
            router: "fn of_original(",
            document: include_str!("../vidaio/original.openapi.json"),
            page: &[],
        },
        Listener {
            source: include_str!("../vidaio/mod.rs"),
            router: "fn of_current(",
            document: include_str!("../vidaio/current.openapi.json"),
            page: &[],
        },
    ];

    /// The text of a function that stands outside all others.
    fn function<'a>(source: &'a str, start: &str) -> &'a str {
        let (_, rest) = source.split_once(start).unwrap_or_else(|| panic!("no {start}"));
        rest.split_once("\n}\n").expect("its end").0
    }

    /// `GET /path` of every `.route("/path", get(..).post(..))`.
    fn routed(source: &str) -> BTreeSet<String> {
        let mut found = BTreeSet::new();
        for route in source.split(".route(\"").skip(1) {
            let (path, rest) = route.split_once('"').unwrap();
            let end = rest.find("\n").unwrap();
            for method in ["get", "post", "put", "delete", "patch"] {
                let called = |before: char| rest[..end].contains(&format!("{before}{method}("));
                if called(' ') || called('.') {
                    found.insert(format!("{} {path}", method.to_uppercase()));
                }
            }
        }
        found
    }

    #[test]
    fn every_route_is_told_of_and_nothing_else() {
        for Listener { source, router, document, page } in LISTENERS {
            let document: Value = serde_json::from_str(document).unwrap();
            let mut told = BTreeSet::new();
            for (path, item) in document["paths"].as_object().unwrap() {
                let methods = item.as_object().unwrap().keys().filter(|key| *key != "parameters");
                told.extend(methods.map(|method| format!("{} {path}", method.to_uppercase())));
            }
            let routes: BTreeSet<String> = routed(function(source, router))
                .into_iter()
                .filter(|route| !page.iter().any(|path| *route == format!("GET {path}")))
                .collect();
            assert_eq!(told, routes);
            assert!(told.contains("GET /openapi.json") && told.len() > 4);
            assert_eq!(document["info"]["version"], env!("CARGO_PKG_VERSION"));
        }
    }

    #[test]
    fn routes_are_found() {
        let found = routed("r.route(\"/a/{b}\", get(x).post(y))\n.route(\"/c\", post(d::get))\n");
        assert_eq!(found.into_iter().collect::<Vec<_>>(), ["GET /a/{b}", "POST /a/{b}", "POST /c"]);
    }
}
