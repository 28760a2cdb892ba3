//! OpenAPI 3.1 of one tenant's functions: what is served, said so that tools can call it.

use serde_json::{Map, Value, json};

use super::problem::Code;
use crate::{
    event::{property_at, text::TEXT_PATTERN},
    id::TenantName,
    pipeline::{Function, Tenant},
    site::origin::Origin,
};

/// The document; `server` is where callers reach the gateway, but for a tenant that has hosts of its own.
pub fn document(tenant: &Tenant, title: &str, server: &Origin) -> Value {
    let mut hosts: Vec<_> = tenant.hosts.iter().map(|host| server.at_host(host.name())).collect();
    // At a host the path names the function, elsewhere first the tenant.
    let prefix = if hosts.is_empty() { format!("/{}", tenant.name) } else { String::new() };
    if hosts.is_empty() {
        hosts.push(server.clone());
    }
    let servers: Vec<Value> = hosts.iter().map(|origin| json!({ "url": origin })).collect();
    let mut functions: Vec<_> = tenant.functions().collect();
    functions.sort_by(|a, b| a.id.cmp(&b.id));
    let (mut paths, mut schemas) = (Map::new(), Map::new());
    schemas.insert("Problem".into(), problem_schema());
    for function in functions {
        let of_function = [
            function
                .events
                .schema_at(&base(function, EVENT))
                .map(with_text_rules)
                .map(|schema| (EVENT, schema)),
            function.events.query_schema_at(&base(function, QUERY)).map(with_text_rules).map(|s| (QUERY, s)),
            function.replies.response_schema_at(&base(function, RESPONSE)).map(|schema| (RESPONSE, schema)),
        ];
        let named = of_function.into_iter().flatten().map(|(what, schema)| (name(function, what), schema));
        schemas.extend(named);
        paths.insert(format!("{prefix}/{}", function.id.function), path_item(&tenant.name, function, false));
        if function.events.takes_rest() {
            paths.insert(
                format!("{prefix}/{}/{{rest}}", function.id.function),
                path_item(&tenant.name, function, true),
            );
        }
    }
    let mut schemes = Map::new();
    for scheme in tenant.authenticator.schemes() {
        let described = match scheme {
            "DPoP" => json!({
                "type": "http", "scheme": "DPoP", "bearerFormat": "JWT",
                "description": "A token that is bound to a key, and in the header `DPoP` a proof of that key (RFC 9449)",
            }),
            _ => json!({ "type": "http", "scheme": "bearer", "bearerFormat": "JWT" }),
        };
        schemes.insert(scheme.to_lowercase(), described);
    }
    // Any one of them: which, the token's issuer says.
    let security: Vec<Value> = schemes.keys().map(|scheme| json!({ scheme: [] })).collect();
    json!({
        "openapi": "3.1.0",
        "jsonSchemaDialect": "https://json-schema.org/draft/2020-12/schema",
        "info": { "title": title, "version": &*tenant.revision },
        "servers": servers,
        "security": security,
        "paths": paths,
        "components": {
            "securitySchemes": schemes,
            "schemas": schemas,
        },
    })
}

/// A schema of input with the text rules, which hold for every string besides it: a tool that sends what the document
/// allows is not to learn of them by a 400.
fn with_text_rules(mut schema: Value) -> Value {
    fn walk(schema: &mut Value) {
        match schema {
            Value::Object(members) => {
                if members.get("type").and_then(Value::as_str) == Some("string") {
                    if members.contains_key("pattern") {
                        let all = members.entry("allOf").or_insert_with(|| json!([]));
                        all.as_array_mut()
                            .into_iter()
                            .for_each(|all| all.push(json!({ "pattern": TEXT_PATTERN })));
                    } else {
                        members.insert("pattern".into(), TEXT_PATTERN.into());
                    }
                }
                // What is in these is a value and no schema.
                let schemas = members
                    .iter_mut()
                    .filter(|(name, _)| !["enum", "const", "default", "examples"].contains(&name.as_str()));
                schemas.for_each(|(_, schema)| walk(schema));
            }
            Value::Array(schemas) => schemas.iter_mut().for_each(walk),
            _ => {}
        }
    }
    walk(&mut schema);
    schema
}

/// The name of a function's schema among the document's. Functions of a tenant differ, and no name has a dot.
fn name(function: &Function, what: &str) -> String {
    format!("{}.{what}", function.id.function)
}

/// Where it stands: all references are told from the document's root (OpenAPI 3.1.0 §4.6).
fn base(function: &Function, what: &str) -> String {
    format!("#/components/schemas/{}", name(function, what))
}

fn reference(to: impl Into<String>) -> Value {
    json!({ "$ref": to.into() })
}

fn path_item(tenant: &TenantName, function: &Function, with_rest: bool) -> Value {
    let mut item = Map::new();
    for method in function.events.methods() {
        let mut operation = Map::new();
        let id = format!(
            "{}_{}{}",
            method.as_str().to_lowercase(),
            function.id.function,
            if with_rest { "_rest" } else { "" }
        );
        operation.insert("operationId".into(), id.into());
        operation.insert("tags".into(), json!([tenant]));
        if let Some(summary) = &function.manifest.summary {
            operation.insert("summary".into(), summary.as_str().into());
        }
        let mut parameters = query_parameters(function);
        if function.events.takes_cloudevents() {
            parameters.extend(attribute_parameters());
        }
        if with_rest {
            parameters.push(
                json!({ "name": "rest", "in": "path", "required": true, "schema": { "type": "string" } }),
            );
        }
        if !parameters.is_empty() {
            operation.insert("parameters".into(), parameters.into());
        }
        let bodiless = [http::Method::GET, http::Method::HEAD, http::Method::DELETE].contains(method);
        let content = request_content(function);
        if !content.is_empty() && !bodiless {
            operation.insert("requestBody".into(), json!({ "required": true, "content": content }));
        }
        operation.insert("responses".into(), responses(function));
        item.insert(method.as_str().to_lowercase(), operation.into());
    }
    item.into()
}

/// A parameter for each property of the query's schema.
fn query_parameters(function: &Function) -> Vec<Value> {
    let Some(schema) = function.events.query_schema() else { return Vec::new() };
    let required: Vec<&str> = schema
        .get("required")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    let properties = schema.get("properties").and_then(Value::as_object);
    properties
        .into_iter()
        .flat_map(Map::keys)
        .map(|name| {
            let at = property_at(&base(function, QUERY), name);
            json!({ "name": name, "in": "query", "required": required.contains(&name.as_str()), "schema": reference(at) })
        })
        .collect()
}

fn request_content(function: &Function) -> Map<String, Value> {
    let schema = |media_type: &str| match (media_type, function.events.schema()) {
        ("application/json" | "application/x-www-form-urlencoded", Some(_)) => {
            reference(base(function, EVENT))
        }
        (media_type, Some(_)) if media_type.ends_with("+json") => reference(base(function, EVENT)),
        _ => json!({}),
    };
    let media_types = function.events.media_types();
    let mut content: Map<String, Value> =
        media_types.map(|name| (name.to_owned(), json!({ "schema": schema(name) }))).collect();
    if function.events.takes_cloudevents() {
        content.insert(STRUCTURED.to_owned(), json!({ "schema": structured_schema(function) }));
    }
    content
}

/// A header for each attribute of a CloudEvent in binary mode. In structured mode the body has them, so OpenAPI cannot say
/// which are required.
fn attribute_parameters() -> impl Iterator<Item = Value> {
    attributes().into_iter().map(|(name, is_required, schema)| {
        let need = if is_required { "required" } else { "optional" };
        let description = format!(
            "CloudEvents 1.0, `{name}`: {need} in binary mode, percent-encoded (HTTP protocol binding, 3.1.3.2)"
        );
        json!({ "name": format!("ce-{name}"), "in": "header", "required": false, "description": description, "schema": schema })
    })
}

/// A CloudEvent in structured mode around the function's data.
fn structured_schema(function: &Function) -> Value {
    let mut properties: Map<String, Value> =
        attributes().into_iter().map(|(name, _, schema)| (name.to_owned(), schema)).collect();
    let required: Vec<&str> =
        attributes().into_iter().filter(|(_, required, _)| *required).map(|(n, ..)| n).collect();
    let types: Vec<&str> = function.events.media_types().collect();
    properties.insert("datacontenttype".into(), json!({ "type": "string" }));
    properties.insert("data_base64".into(), json!({ "type": "string", "contentEncoding": "base64" }));
    let is_json = |name: &&str| name.ends_with("/json") || name.ends_with("+json");
    let data = match (types.iter().any(is_json), types.iter().all(is_json)) {
        (true, true) => reference(base(function, EVENT)),
        (true, false) => json!({ "anyOf": [reference(base(function, EVENT)), { "type": "string" }] }),
        (false, _) => json!({ "type": "string" }),
    };
    if !types.is_empty() {
        properties.insert("data".into(), data);
    }
    json!({
        "type": "object",
        "required": required,
        "properties": properties,
        "propertyNames": { "pattern": "^([a-z0-9]{1,20}|data_base64)$" },
        "additionalProperties": { "type": ["boolean", "integer", "string", "null"] },
    })
}

/// Attributes of the specification: the name, whether every event has it, and its schema.
fn attributes() -> [(&'static str, bool, Value); 7] {
    let text = || json!({ "type": "string", "minLength": 1 });
    let format = |format: &str| json!({ "type": "string", "minLength": 1, "format": format });
    [
        ("specversion", true, json!({ "type": "string", "const": "1.0" })),
        ("id", true, text()),
        ("source", true, format("uri-reference")),
        ("type", true, text()),
        ("subject", false, text()),
        ("time", false, format("date-time")),
        ("dataschema", false, format("uri")),
    ]
}

/// A reply of the function's, and each status that the gateway may answer instead, with its codes.
fn responses(function: &Function) -> Value {
    let mut responses = Map::new();
    let content = match function.replies.has_schema() {
        true => json!({ "application/json": { "schema": reference(base(function, RESPONSE)) } }),
        false => json!({ "*/*": {} }),
    };
    responses.insert("2XX".into(), json!({ "description": "The function's reply", "content": content }));
    for code in Code::ALL {
        let entry = responses.entry(code.status().as_u16().to_string()).or_insert_with(|| {
            json!({
                "description": "",
                "content": { "application/problem+json": { "schema": reference("#/components/schemas/Problem") } },
            })
        });
        let before = entry.get("description").and_then(Value::as_str).unwrap_or_default();
        let line = format!("`{}`: {}", code.as_str(), code.title());
        let description = if before.is_empty() { line } else { format!("{before}; {line}") };
        if let Some(entry) = entry.as_object_mut() {
            entry.insert("description".into(), description.into());
        }
    }
    responses.into()
}

fn problem_schema() -> Value {
    let codes: Vec<&str> = Code::ALL.iter().map(|code| code.as_str()).collect();
    json!({
        "type": "object",
        "required": ["type", "title", "status", "instance", "code"],
        "properties": {
            "type": { "type": "string", "format": "uri-reference" },
            "title": { "type": "string" },
            "status": { "type": "integer", "minimum": 400, "maximum": 599 },
            "instance": { "type": "string", "description": "The request id, also in `sandgate-request-id`" },
            "code": { "type": "string", "enum": codes },
            "errors": {
                "type": "array",
                "maxItems": 20,
                "items": {
                    "type": "object",
                    "required": ["pointer", "keyword"],
                    "properties": {
                        "pointer": { "type": "string" },
                        "keyword": { "type": "string" },
                        "limit": { "type": "string" },
                    },
                },
            },
        },
    })
}

/// The media type of a CloudEvent in structured mode.
const STRUCTURED: &str = "application/cloudevents+json";

const EVENT: &str = "event";
const QUERY: &str = "query";
const RESPONSE: &str = "response";
