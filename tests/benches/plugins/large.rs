//! A component as large as one of Python, dropped into the directory of the daemon as it is shipped. `APGAR_LARGE` names
//! one to use there instead of the generated.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use apgar_engine::Compile;
use apgar_sim::{ApiServer, Fleet, Shape, SimConfig};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::Value;
use wasm_encoder::{
    CodeSection, ConstExpr, DataSection, ElementSection, Elements, ExportKind, ExportSection, Function,
    FunctionSection, MemorySection, MemoryType, Module, RefType, TableSection, TableType, TypeSection, ValType,
};
use wit_component::{StringEncoding, embed_component_metadata};
use wit_parser::Resolve;

use crate::world::Running;
use crate::{Report, Times, resident};

const NODES: usize = 1_000;

/// As many functions of about a kilobyte as make 11 MB, and 7 MB of data.
const FUNCTIONS: u32 = 11_000;
const DATA: usize = 7 << 20;

/// How often the loop is asked something, and for how long before the component comes.
const ASK_EVERY: Duration = Duration::from_millis(10);
const BEFORE: Duration = Duration::from_secs(15);

/// For the component to serve: its compile deadline, and the waits before it.
const PATIENCE: Duration = Duration::from_secs(90);

pub(crate) async fn measure(report: &mut Report) {
    let component = match std::env::var_os("APGAR_LARGE") {
        Some(path) => fs::read(path).unwrap(),
        None => generated(),
    };
    report.says("a large component", component.len() as f64 / 1e6, "MB");
    let daemon = Daemon::start().await;
    // Once without being measured.
    daemon.asked_until(async |_| false, Duration::from_secs(3)).await;
    let before = daemon.asked_until(async |_| false, BEFORE).await;
    let resting = resident(&daemon.child.id().to_string());
    let dropped = Instant::now();
    drop_in(daemon.home.path(), &component);
    let meanwhile = daemon.asked_until(Daemon::serves_large, PATIENCE).await;
    let serving = dropped.elapsed();
    assert!(daemon.serves_large().await, "it does not serve: {}", daemon.plugins().await);
    daemon.until_large_judged_all().await;
    report.says("dropped in to serving", serving.as_secs_f64() * 1e3, "ms");
    report.says("a question to the daemon, answered before, p99", before.at(0.99), "ms");
    report.says("a question to the daemon, answered while it is compiled, p99", meanwhile.at(0.99), "ms");
    let large = daemon.large().await;
    let guest_time = large["guestMs"].as_f64().unwrap() / large["calls"].as_f64().unwrap();
    report.says("a check of it, guest time", guest_time, "ms");
    let grown = resident(&daemon.child.id().to_string()) - resting;
    report.at_most("resident memory of the daemon, grown", grown, 40.0, "MiB");
    drop(daemon);
    turns(report).await;
}

/// Turns of the loop while a large component is compiled, beside those with another neighbour that keeps a processor
/// busy at the lowest priority: with two of them, any does.
async fn turns(report: &mut Report) {
    let home = tempfile::tempdir().unwrap();
    let compile = Compile::Child { program: apgar_tests::apgar_binary!() };
    let mut running = Running::start(home.path(), compile, Duration::from_millis(5)).await;
    let until = async |running: &mut Running, span: Duration| {
        running.world.turns.clear();
        let began = Instant::now();
        while began.elapsed() < span && !running.world.serves("large") {
            running.step(true).await;
        }
        Times::new(std::mem::take(&mut running.world.turns)).at(0.99)
    };
    until(&mut running, Duration::from_secs(3)).await;
    let alone = until(&mut running, BEFORE).await;
    let mut neighbour = Command::new("nice").args(["-n", "19", "sh", "-c", "while :; do :; done"]).spawn().unwrap();
    let beside = until(&mut running, BEFORE).await;
    neighbour.kill().unwrap();
    neighbour.wait().unwrap();
    let component = generated();
    running.world.book.whole("large", &component, "Large", false);
    drop_in(home.path(), &component);
    let meanwhile = until(&mut running, PATIENCE).await;
    assert!(running.world.serves("large"));
    report.says("a turn of the loop, p99, alone", alone, "ms");
    report.says("a turn of the loop, p99, beside a busy neighbour", beside, "ms");
    report.says("a turn of the loop, p99, while it is compiled", meanwhile, "ms");
    report.at_most("a turn, p99, compiling / beside a neighbour", meanwhile / beside, 1.2, "x");
}

fn drop_in(home: &Path, component: &[u8]) {
    let aside = home.join("aside");
    fs::write(&aside, component).unwrap();
    fs::rename(&aside, home.join("plugins/large.wasm")).unwrap();
}

/// The program that is shipped, beside a simulated cluster.
struct Daemon {
    child: Child,
    metrics: u16,
    api: u16,
    home: tempfile::TempDir,
    _server: ApiServer,
}

impl Daemon {
    async fn start() -> Self {
        let home = tempfile::tempdir().unwrap();
        let server = ApiServer::start(SimConfig::default()).unwrap();
        Fleet::new(1, &[(Shape::CivoFlannel, NODES)]).install(&server).unwrap();
        fs::create_dir(home.path().join("plugins")).unwrap();
        let path = |name: &str| -> PathBuf { home.path().join(name) };
        fs::write(path("kubeconfig"), server.kubeconfig()).unwrap();
        let [metrics, api] = apgar_tests::free_ports().unwrap();
        let child = Command::new(apgar_tests::apgar_binary!())
            .env_clear()
            .args(["run", "--log-level", "error"])
            .args([Path::new("--kubeconfig"), &path("kubeconfig")])
            .args([Path::new("--store-dir"), &path("state")])
            .args([Path::new("--plugin-dir"), &path("plugins")])
            .args(["--metrics-port", &metrics.to_string(), "--api-listen", &format!("127.0.0.1:{api}")])
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let daemon = Self { child, metrics, api, home, _server: server };
        let patience = Instant::now();
        while !apgar_tests::get(daemon.metrics, "/readyz").await.is_ok_and(|(status, _)| status == 200) {
            assert!(patience.elapsed() < Duration::from_secs(60), "the daemon is not ready");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        daemon.until_judged().await;
        daemon
    }

    /// Asks the loop again and again, and says how long each answer took.
    async fn asked_until(&self, over: impl AsyncFn(&Self) -> bool, most: Duration) -> Times {
        let mut pace = tokio::time::interval(ASK_EVERY);
        pace.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let (began, mut took) = (Instant::now(), Vec::new());
        while began.elapsed() < most {
            pace.tick().await;
            let asked = Instant::now();
            let (status, _) = apgar_tests::get(self.api, "/api/v1/phases").await.unwrap();
            assert_eq!(status, 200);
            took.push(asked.elapsed());
            if took.len().is_multiple_of(20) && over(self).await {
                break;
            }
        }
        Times::new(took)
    }

    async fn plugins(&self) -> String {
        apgar_tests::get(self.api, "/api/v1/plugins").await.unwrap().1
    }

    async fn large(&self) -> Value {
        let plugins: Value = serde_json::from_str(&self.plugins().await).unwrap();
        let items = plugins["items"].as_array().unwrap();
        items.iter().find(|plugin| plugin["name"] == "large").cloned().unwrap_or_default()
    }

    async fn serves_large(&self) -> bool {
        self.large().await["state"] == "Running"
    }

    /// Until it was asked about every node, and what that took is given back.
    async fn until_large_judged_all(&self) {
        let patience = Instant::now();
        while self.large().await["calls"].as_u64().is_none_or(|calls| calls < NODES as u64) {
            assert!(patience.elapsed() < Duration::from_secs(60), "{}", self.plugins().await);
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }

    /// Until nothing is left to be asked.
    async fn until_judged(&self) {
        let patience = Instant::now();
        loop {
            let (_, phases) = apgar_tests::get(self.api, "/api/v1/phases").await.unwrap();
            let phases: Value = serde_json::from_str(&phases).unwrap();
            if phases["Healthy"] == NODES {
                return;
            }
            assert!(patience.elapsed() < Duration::from_secs(60), "not all nodes are judged: {phases}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

/// A checker that is well on every node, with as much code and data around it as an interpreter has.
fn generated() -> Vec<u8> {
    let mut random = StdRng::seed_from_u64(1);
    let (answer, arithmetic, realloc) = (0, 1, 2);
    let mut types = TypeSection::new();
    types.ty().function([], [ValType::I32]);
    types.ty().function([ValType::I32], [ValType::I32]);
    types.ty().function([ValType::I32; 4], [ValType::I32]);

    let mut functions = FunctionSection::new();
    let mut code = CodeSection::new();
    let mut add = |kind, body: &dyn Fn(&mut Function)| {
        functions.function(kind);
        let mut function = Function::new([]);
        body(&mut function);
        function.instructions().end();
        code.function(&function);
    };
    // Strings and structs as the canonical ABI lays them out.
    let (described, verdict, name) = (64, 128, 192);
    add(answer, &|function| _ = function.instructions().i32_const(described));
    add(answer, &|function| _ = function.instructions().i32_const(verdict));
    add(realloc, &|function| _ = function.instructions().i32_const(4096));
    let table = 3;
    for _ in 0..FUNCTIONS {
        let constants: Vec<i32> = (0..100).map(|_| random.random_range(1 << 20..1 << 27)).collect();
        add(arithmetic, &|function| {
            for chunk in constants.chunks(4) {
                let mut code = function.instructions();
                code.local_get(0).i32_const(chunk[0]).i32_mul().i32_const(chunk[1]).i32_xor().local_tee(0);
                code.i32_const(0xffff).i32_and().i32_load(wasm_encoder::MemArg {
                    offset: 0,
                    align: 2,
                    memory_index: 0,
                });
                code.i32_const(chunk[2]).i32_add().i32_const(chunk[3] % FUNCTIONS as i32).i32_and().local_set(0);
            }
            function.instructions().local_get(0);
        });
    }

    let mut tables = TableSection::new();
    tables.table(TableType {
        element_type: RefType::FUNCREF,
        minimum: u64::from(FUNCTIONS),
        maximum: None,
        table64: false,
        shared: false,
    });
    let mut elements = ElementSection::new();
    let all: Vec<u32> = (table..table + FUNCTIONS).collect();
    elements.active(None, &ConstExpr::i32_const(0), Elements::Functions(all.into()));
    let mut memories = MemorySection::new();
    let pages = (DATA as u64 >> 16) + 2;
    memories.memory(MemoryType { minimum: pages, maximum: None, memory64: false, shared: false, page_size_log2: None });
    let mut exports = ExportSection::new();
    exports.export("memory", ExportKind::Memory, 0);
    exports.export("apgar:checker/checker@0.1.0#describe", ExportKind::Func, 0);
    exports.export("apgar:checker/checker@0.1.0#check", ExportKind::Func, 1);
    exports.export("cabi_realloc", ExportKind::Func, 2);
    let mut data = DataSection::new();
    let words = |words: &[u32]| words.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<u8>>();
    let said = [name as u32, 5];
    let description = [&said[..], &said, &said, &[0, 0], &[60_000, 0]].concat();
    data.active(0, &ConstExpr::i32_const(described), words(&description));
    data.active(0, &ConstExpr::i32_const(verdict), words(&[0, 0, 1, said[0], said[1], 0, 60_000, 0]));
    data.active(0, &ConstExpr::i32_const(name), *b"Large");
    let mut filler = vec![0; DATA];
    random.fill(&mut filler[..]);
    data.active(0, &ConstExpr::i32_const(1 << 16), filler);

    let mut module = Module::new();
    module.section(&types).section(&functions).section(&tables).section(&memories).section(&exports);
    module.section(&elements).section(&code).section(&data);
    let mut module = module.finish();
    let mut contract = Resolve::default();
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../wit/checker-0.1.0");
    let (package, _) = contract.push_path(dir).unwrap();
    let plugin = contract.select_world(&[package], Some("plugin")).unwrap();
    embed_component_metadata(&mut module, &contract, plugin, StringEncoding::UTF8).unwrap();
    apgar_component::encode(&module).unwrap()
}
