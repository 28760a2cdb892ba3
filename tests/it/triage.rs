//! `globex/triage` apart from its component, which is not committed: that its model is what its corpus makes and its oracle what
//! the model says, both written here once more; and what a site has of it before and after it is built.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    fs,
    os::unix::fs::symlink,
    path::Path,
};

use serde::Deserialize;
use serde_json::{Value, json};

use crate::{cli::sandgate, guest, sample, world::World};

/// `model.json`, by the README beside it.
#[derive(Deserialize)]
struct Model {
    categories: Vec<String>,
    stem: usize,
    margin: i64,
    weights: BTreeMap<String, Vec<i64>>,
}

/// A message of the corpus, read.
struct Message {
    category: usize,
    stems: BTreeSet<String>,
}

#[test]
fn the_model_is_what_its_corpus_makes() {
    let model = model();
    let (trains, held_out) = corpus(&model);
    assert_eq!(weights(&model, &trains.iter().collect::<Vec<_>>()), model.weights);
    // README tells of these figures.
    insta::assert_snapshot!(confusion(&model, &held_out), @r"
    held out   access  billing delivery    fault  privacy  unclear
    access         18        0        0        1        0       13
    billing         0       20        0        0        2       10
    delivery        1        0       23        1        0        7
    fault           2        0        0       22        0        8
    privacy         1        0        0        0       26        5
    likeliest right: 134 of 160
    ");
}

/// Nine parts of ten of what trains judge the tenth, in turn: nine of ten that are filed are to be filed rightly.
#[test]
fn the_margin_is_the_smallest_step_that_files_nine_of_ten_rightly() {
    let model = model();
    let (trains, _) = corpus(&model);
    let mut leads = Vec::new();
    for fold in 0..10 {
        let others = trains.iter().enumerate().filter(|(at, _)| at % 10 != fold).map(|(_, message)| message);
        let weights = weights(&model, &others.collect::<Vec<_>>());
        for message in trains.iter().skip(fold).step_by(10) {
            let (likeliest, lead) = judged(&weights, message);
            leads.push((lead, likeliest == message.category));
        }
    }
    let rightly = |margin: i64| {
        let filed: Vec<_> = leads.iter().filter(|(lead, _)| *lead >= margin).collect();
        10 * filed.iter().filter(|(_, right)| *right).count() >= 9 * filed.len()
    };
    assert_eq!((250..).step_by(250).find(|margin| rightly(*margin)), Some(model.margin));
}

#[test]
fn the_oracle_says_what_the_model_says() {
    let model = model();
    for (at, case) in oracle().iter().enumerate() {
        let text = |name: &str| case["event"].get(name).and_then(Value::as_str).unwrap_or_default();
        let read = words(&format!("{}\n{}", text("subject"), text("message")));
        let mut first = BTreeMap::new();
        for word in read.iter().rev() {
            first.insert(stem(&model, word), word.clone());
        }
        first.retain(|stem, _| model.weights.contains_key(stem));
        let stems = first.keys().cloned().collect();
        let scores = scores(&model.weights, &stems);
        let (likeliest, margin) = judged(&model.weights, &Message { category: 0, stems });
        let mut speaking: Vec<_> =
            first.iter().map(|(stem, word)| (-model.weights[stem][likeliest], word)).collect();
        speaking.retain(|(against, _)| *against < 0);
        speaking.sort_by_key(|(against, _)| *against);
        let clear = margin >= model.margin;
        let evidence: Vec<_> =
            speaking.iter().take(if clear { 5 } else { 0 }).map(|(_, word)| word).collect();
        let known = read.iter().filter(|word| model.weights.contains_key(&stem(&model, word))).count();
        let said = json!({
            "category": if clear { &model.categories[likeliest] } else { "unclear" },
            "margin": margin,
            "scores": model.categories.iter().zip(&scores).collect::<BTreeMap<_, _>>(),
            "evidence": evidence,
            "words": {"read": read.len(), "known": known},
        });
        assert_eq!((&case["status"], &case["body"]), (&json!(200), &said), "event {at}");
    }
}

#[test]
fn the_sample_site_has_nothing_of_it_until_it_is_built() {
    let site = sample::site();
    let (code, out, err) = sandgate(&["check", "--site", site.path().to_str().unwrap()]);
    assert_eq!((code, out.contains("triage"), err.contains("triage")), (0, false, false), "{out}{err}");
    // Without keys of this machine, which `sandgate dev` makes, each tenant has one warning.
    assert!(
        format!("{out}{err}").contains("0 faults, 2 warnings in 2 tenants with 4 functions"),
        "{out}{err}"
    );
}

#[tokio::test]
async fn a_manifest_without_the_component_is_told() {
    let world = world(None).start_with(|_| ()).await;
    let faults: Vec<String> = world.running.diagnostics.iter().map(|d| d.one_line()).collect();
    let [fault] = &faults[..] else { panic!("{faults:#?}") };
    assert!(fault.starts_with("functions/globex/triage/function.toml:"), "{fault}");
    assert!(fault.contains("`triage.wasm`: there is no such file"), "{fault}");
}

/// With another component in its place, which answers with the event: as far as the gateway goes.
#[tokio::test]
async fn the_desk_may_call_it_and_what_it_is_sent_and_answers_is_held_to_its_schemas() {
    let world = world(Some(&guest::echo())).start().await;
    let call = |roles: Value, event: Value| {
        let token = world.token("globex").claim("roles", roles).sign();
        world.invoke("globex/triage").bearer(token).json(event).send()
    };
    let desk = || json!(["support"]);
    let denied = call(json!(["planner"]), json!({"message": "Where is my parcel?"})).await;
    assert_eq!(denied.summary(), "403 forbidden");
    for event in [
        json!({}),
        json!({"subject": "Parcel"}),
        json!({"message": 1}),
        json!({"message": "", "urgent": true}),
        json!({"message": "x".repeat(4001)}),
        json!({"message": "", "subject": "x".repeat(201)}),
    ] {
        let reply = call(desk(), event.clone()).await;
        assert_eq!(reply.summary(), "422 invalid_event", "{event}");
    }
    // Within bounds once it is trimmed, and not an answer.
    let reply = call(desk(), json!({"message": format!("  {}\n", "é".repeat(4000))})).await;
    assert_eq!(reply.summary(), "502 function_failed");
    let record = world.record(&reply);
    assert_eq!(
        (&record["stage"], &record["decision"]["policies"]),
        (&json!("run"), &json!(["globex/support-desk"]))
    );
}

/// The function's own files, with the manifest linked as the build links it, and the policy that lets the support desk in.
fn world(component: Option<&str>) -> World {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let world = World::new().tenant("globex");
    let folder = world.path().join("functions/globex/triage");
    sample::copy(root, world.path(), "functions/globex/triage");
    for built in ["function.toml", "triage.wasm"] {
        _ = fs::remove_file(folder.join(built));
    }
    symlink("manifest.toml", folder.join("function.toml")).unwrap();
    if let Some(component) = component {
        fs::write(folder.join("triage.wasm"), component).unwrap();
    }
    let policy = fs::read_to_string(root.join("policies/globex/support.cedar")).unwrap();
    world.file("policies/globex/policies.cedar", &policy)
}

fn own(name: &str) -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("functions/globex/triage");
    fs::read_to_string(folder.join(name)).unwrap()
}

fn model() -> Model {
    serde_json::from_str(&own("model.json")).unwrap()
}

fn oracle() -> Vec<Value> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/oracle/triage.jsonl");
    fs::read_to_string(path).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// What trains, and every fourth message of each category, which is held out.
fn corpus(model: &Model) -> (Vec<Message>, Vec<Message>) {
    let (mut trains, mut held_out) = (Vec::new(), Vec::new());
    let mut seen = BTreeMap::new();
    let text = own("corpus.tsv");
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let (category, message) = line.split_once('\t').unwrap();
        let count = seen.entry(category).and_modify(|count| *count += 1).or_insert(1);
        let stems = words(message).iter().map(|word| stem(model, word)).collect();
        let category = model.categories.iter().position(|c| c == category).unwrap();
        let part = if *count % 4 == 0 { &mut held_out } else { &mut trains };
        part.push(Message { category, stems });
    }
    (trains, held_out)
}

fn words(text: &str) -> Vec<String> {
    let text: String = text.chars().filter(|c| !matches!(c, '\'' | '’')).map(lower).collect();
    let words = text.split(|c| !matches!(c, 'a'..='z' | '0'..='9' | 'ß'..='ö' | 'ø'..='ɏ'));
    let words =
        words.filter(|word| word.chars().count() >= 2 && word.contains(|c: char| !c.is_ascii_digit()));
    words.map(str::to_owned).collect()
}

fn lower(letter: char) -> char {
    match letter {
        'A'..='Z' | 'À'..='Ö' | 'Ø'..='Þ' => char::from_u32(letter as u32 + 32).unwrap(),
        other => other,
    }
}

fn stem(model: &Model, word: &str) -> String {
    word.chars().take(model.stem).collect()
}

/// Naive Bayes with half a message added to every count, against the mean of the categories, in thousandths.
fn weights(model: &Model, messages: &[&Message]) -> BTreeMap<String, Vec<i64>> {
    let mut counts: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    for message in messages {
        for stem in &message.stems {
            counts.entry(stem).or_insert_with(|| vec![0.0; model.categories.len()])[message.category] += 1.0;
        }
    }
    let total = |category: usize| counts.values().map(|of| of[category]).sum::<f64>();
    let floor = counts.len() as f64 / 2.0;
    let totals: Vec<f64> = (0..model.categories.len()).map(|category| total(category) + floor).collect();
    let of = |counts: &Vec<f64>| {
        let logs: Vec<f64> =
            counts.iter().zip(&totals).map(|(count, total)| ((count + 0.5) / total).ln()).collect();
        let mean = logs.iter().sum::<f64>() / logs.len() as f64;
        logs.iter().map(|log| (1000.0 * (log - mean)).round() as i64).collect()
    };
    counts.iter().map(|(stem, counts)| ((*stem).to_owned(), of(counts))).collect()
}

fn scores(weights: &BTreeMap<String, Vec<i64>>, stems: &BTreeSet<String>) -> Vec<i64> {
    let categories = weights.values().next().map_or(0, Vec::len);
    let said = stems.iter().filter_map(|stem| weights.get(stem));
    said.fold(vec![0; categories], |sum, of| sum.iter().zip(of).map(|(sum, weight)| sum + weight).collect())
}

/// The likeliest category, the first of several, and by how much it leads.
fn judged(weights: &BTreeMap<String, Vec<i64>>, message: &Message) -> (usize, i64) {
    let scores = scores(weights, &message.stems);
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by_key(|at| -scores[*at]);
    (order[0], scores[order[0]] - scores[order[1]])
}

/// A row for each category, with what its messages were filed under.
fn confusion(model: &Model, messages: &[Message]) -> String {
    let mut table = vec![vec![0; model.categories.len() + 1]; model.categories.len()];
    let mut likeliest_right = 0;
    for message in messages {
        let (likeliest, lead) = judged(&model.weights, message);
        likeliest_right += usize::from(likeliest == message.category);
        let column = if lead >= model.margin { likeliest } else { model.categories.len() };
        table[message.category][column] += 1;
    }
    let columns = model.categories.iter().map(String::as_str).chain(["unclear"]);
    let mut text = columns.fold("held out".to_owned(), |line, column| line + &format!("{column:>9}"));
    for (category, row) in model.categories.iter().zip(&table) {
        _ = write!(text, "\n{category:8}");
        row.iter().for_each(|count| _ = write!(text, "{count:9}"));
    }
    _ = write!(text, "\nlikeliest right: {likeliest_right} of {}", messages.len());
    text
}
