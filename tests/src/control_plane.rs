//! A real control plane on loopback: kube-apiserver and etcd, with nodes that KWOK keeps alive.
//!
//! The programs are built from the Go module proxy as pinned in `tests/control-plane`, into the target folder.
//! Everything that is started belongs to one process group and ends with the [`ControlPlane`], also when the
//! test panics, is interrupted or is killed. Waiting is for conditions, each with a bound; nothing sleeps for
//! an effect.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::Write as _;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{Mutex, MutexGuard};
use tokio::time::{MissedTickBehavior, interval, timeout};

/// The label of the nodes that KWOK keeps alive; a node that loses it falls silent: no Lease, no status.
pub const ALIVE: (&str, &str) = ("kwok.x-k8s.io/node", "fake");

/// The namespace and the service account of `examples/deploy`.
pub const SERVICE_ACCOUNT: (&str, &str) = ("apgar", "apgar");

/// The API server is ready 3 s after its start on two free cores; the bound is for busy ones.
const READY_LIMIT: Duration = Duration::from_secs(120);

/// One kubectl call; an API server that is away is noticed at once, so this is for a busy machine.
const KUBECTL_LIMIT: Duration = Duration::from_secs(60);

/// One request to a program on loopback.
const HTTP_LIMIT: Duration = Duration::from_secs(10);

/// How often a condition is looked at. Often enough that no second is lost, rarely enough that looking at it
/// by a process of kubectl costs less than what is waited for.
const LOOK_EVERY: Duration = Duration::from_millis(400);

/// A minute says that it is alive; a cold build takes about eight on two cores.
const PROGRESS_EVERY: Duration = Duration::from_secs(60);

/// How long the service account's token lives: longer than any test, shorter than a working day.
const TOKEN_LIFE: &str = "4h";

/// What the end of a log may add to an error message.
const LOG_TAIL_LINES: usize = 20;

/// A Go module that pins programs.
struct Module {
    folder: &'static str,
    /// File name and package.
    programs: &'static [(&'static str, &'static str)],
}

const APISERVER: Module = Module {
    folder: "apiserver",
    programs: &[("etcd", "go.etcd.io/etcd/server/v3"), ("kube-apiserver", "k8s.io/kubernetes/cmd/kube-apiserver")],
};

const KWOK: Module = Module { folder: "kwok", programs: &[("kwok", "sigs.k8s.io/kwok/cmd/kwok")] };

/// The stages, in KWOK's own module, that make a node of ours look alive.
const STAGES: [&str; 3] =
    ["kustomize/stage/node/fast", "kustomize/stage/node/heartbeat-with-lease", "kustomize/stage/pod/fast"];

/// Two control planes at once would fight for the machine and miss their bounds.
static ONE_AT_A_TIME: Mutex<()> = Mutex::const_new(());

/// Who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum User {
    /// The test itself: `system:masters`.
    Admin,
    /// The service account of `examples/deploy`, with a token the API server issued and exactly its rights.
    Apgar,
    /// A service account that nothing was granted to.
    Stranger,
}

impl User {
    fn name(self) -> &'static str {
        match self {
            Self::Admin => "admin",
            Self::Apgar => "apgar",
            Self::Stranger => "stranger",
        }
    }
}

/// A running control plane.
pub struct ControlPlane {
    dir: PathBuf,
    programs: PathBuf,
    ports: Ports,
    guard: Guard,
    apiserver: Option<Server>,
    /// etcd and KWOK.
    others: Vec<Server>,
    passed: bool,
    _one_at_a_time: MutexGuard<'static, ()>,
}

#[derive(Clone, Copy)]
struct Ports {
    etcd: u16,
    etcd_peers: u16,
    apiserver: u16,
    kwok: u16,
}

impl ControlPlane {
    /// Builds what is missing and starts etcd, the API server and KWOK, with the access rights of
    /// `examples/deploy` applied. Returns when the API server is ready.
    ///
    /// # Errors
    /// When something cannot be built or started, with the end of its log.
    pub async fn start() -> Result<Self> {
        let one_at_a_time = ONE_AT_A_TIME.lock().await;
        let programs = build().await.context("building the control plane")?;
        let dir = tempfile::Builder::new().prefix("run-").tempdir_in(home()?)?.keep();
        let [etcd, etcd_peers, apiserver, kwok] = free_ports()?;
        let ports = Ports { etcd, etcd_peers, apiserver, kwok };
        let mut guard = Guard::start(&dir)?;
        let etcd = start_etcd(&mut guard, &programs, &dir, ports)?;
        let mut plane = Self {
            dir,
            programs,
            ports,
            guard,
            apiserver: None,
            others: vec![etcd],
            passed: false,
            _one_at_a_time: one_at_a_time,
        };
        let token = format!("admin-{}", std::process::id());
        fs::write(plane.dir.join("tokens.csv"), format!("{token},admin,admin,system:masters\n"))?;
        plane.write_kubeconfig(User::Admin, &token)?;
        plane.start_apiserver().await?;
        plane.let_users_in().await.context("applying examples/deploy/rbac.yaml")?;
        let kwok = plane.start_kwok()?;
        plane.others.push(kwok);
        Ok(plane)
    }

    /// Starts the API server on the port it had before, and returns when it is ready.
    ///
    /// # Errors
    /// When it ends, or is not ready within its bound.
    pub async fn start_apiserver(&mut self) -> Result<()> {
        let Ports { etcd, apiserver, .. } = self.ports;
        let certificate = self.programs.join("cert.pem");
        let key = self.programs.join("key.pem");
        let mut command = Command::new(self.programs.join("kube-apiserver"));
        command
            .arg(format!("--etcd-servers=http://127.0.0.1:{etcd}"))
            .args(["--bind-address=127.0.0.1", &format!("--secure-port={apiserver}")])
            .arg(format!("--cert-dir={}", self.cert_dir().display()))
            .args(["--authorization-mode=RBAC", "--service-cluster-ip-range=10.0.0.0/24"])
            .arg("--service-account-issuer=https://kubernetes.default.svc")
            .arg(format!("--service-account-key-file={}", certificate.display()))
            .arg(format!("--service-account-signing-key-file={}", key.display()))
            .arg(format!("--token-auth-file={}", self.dir.join("tokens.csv").display()))
            .arg("--disable-admission-plugins=ServiceAccount");
        let mut server = self.guard.spawn("kube-apiserver", command, &self.dir)?;
        let ready = wait_for("the API server's /readyz", READY_LIMIT, async || {
            if let Some(status) = server.ended()? {
                bail!("kube-apiserver ended with {status}");
            }
            let answer = self.kubectl(&["get", "--raw=/readyz"]).await?;
            Ok((answer.status.success() && answer.stdout == b"ok").then_some(()))
        });
        ready.await.with_context(|| server.log_tail())?;
        self.apiserver = Some(server);
        Ok(())
    }

    /// Ends the API server at once, as a machine that loses power does. etcd and KWOK go on.
    pub fn stop_apiserver(&mut self) {
        self.apiserver = None;
    }

    /// Runs kubectl as the test, whatever comes of it.
    ///
    /// # Errors
    /// When it cannot be run or does not end.
    pub async fn kubectl(&self, arguments: &[&str]) -> Result<Output> {
        self.kubectl_as(User::Admin, arguments).await
    }

    /// Runs kubectl as `user`, whatever comes of it.
    ///
    /// # Errors
    /// When it cannot be run or does not end.
    pub async fn kubectl_as(&self, user: User, arguments: &[&str]) -> Result<Output> {
        self.run_kubectl(user, arguments, "").await
    }

    /// Runs kubectl as the test and returns what it printed.
    ///
    /// # Errors
    /// When it fails, with what it said.
    pub async fn kubectl_ok(&self, arguments: &[&str]) -> Result<String> {
        let output = self.kubectl(arguments).await?;
        succeeded("kubectl", arguments, output)
    }

    /// Creates an object or a list of them.
    ///
    /// # Errors
    /// When kubectl fails, with what it said.
    pub async fn create(&self, object: &Value) -> Result<()> {
        let arguments = ["create", "-f", "-"];
        let output = self.run_kubectl(User::Admin, &arguments, &object.to_string()).await?;
        succeeded("kubectl", &arguments, output).map(drop)
    }

    /// Changes a node's status by a strategic merge patch.
    ///
    /// # Errors
    /// When kubectl fails, with what it said.
    pub async fn patch_status(&self, node: &str, status: &Value) -> Result<()> {
        let patch = json!({ "status": status }).to_string();
        self.kubectl_ok(&["patch", "node", node, "--subresource=status", "--type=strategic", "-p", &patch])
            .await
            .map(drop)
    }

    /// Takes a node out of KWOK's hands: its Lease is not renewed any more and its status stays as it is.
    ///
    /// # Errors
    /// When kubectl fails, with what it said.
    pub async fn silence(&self, node: &str) -> Result<()> {
        self.kubectl_ok(&["label", "node", node, &format!("{}-", ALIVE.0)]).await.map(drop)
    }

    /// Gives a silent node back to KWOK: it renews the Lease, and reports `Ready` if the node did not.
    ///
    /// # Errors
    /// When kubectl fails, with what it said.
    pub async fn revive(&self, node: &str) -> Result<()> {
        self.kubectl_ok(&["label", "node", node, &format!("{}={}", ALIVE.0, ALIVE.1)]).await.map(drop)
    }

    /// The kubeconfig of a user.
    #[must_use]
    pub fn kubeconfig(&self, user: User) -> PathBuf {
        self.dir.join(format!("{}.kubeconfig", user.name()))
    }

    /// A folder for the test's own files, gone with the control plane.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Starts another program that ends with the control plane. Its output goes to `<name>.log`.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn spawn(&mut self, name: &str, command: Command) -> Result<Server> {
        self.guard.spawn(name, command, &self.dir)
    }

    /// Ends everything. Without this the logs are kept, for whoever wants to know why the test failed.
    pub fn finish(mut self) {
        self.passed = true;
    }

    async fn run_kubectl(&self, user: User, arguments: &[&str], input: &str) -> Result<Output> {
        let mut command = tokio::process::Command::new("kubectl");
        command
            .arg(format!("--kubeconfig={}", self.kubeconfig(user).display()))
            .arg(format!("--cache-dir={}", self.dir.join("kubectl-cache").display()))
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        let mut child = command.spawn().context("kubectl is needed on the PATH")?;
        let stdin = child.stdin.take();
        let talk = async {
            if let Some(mut stdin) = stdin {
                stdin.write_all(input.as_bytes()).await?;
            }
            child.wait_with_output().await
        };
        timeout(KUBECTL_LIMIT, talk)
            .await
            .with_context(|| format!("kubectl {} did not end", arguments.join(" ")))?
            .context("kubectl")
    }

    async fn let_users_in(&self) -> Result<()> {
        let rbac = repository().join("examples/deploy/rbac.yaml").display().to_string();
        self.kubectl_ok(&["apply", "-f", &rbac]).await?;
        let (namespace, account) = SERVICE_ACCOUNT;
        self.kubectl_ok(&["create", "serviceaccount", "stranger", "-n", namespace]).await?;
        for (user, account) in [(User::Apgar, account), (User::Stranger, "stranger")] {
            let life = format!("--duration={TOKEN_LIFE}");
            let token = self.kubectl_ok(&["create", "token", account, "-n", namespace, &life]).await?;
            self.write_kubeconfig(user, token.trim())?;
        }
        Ok(())
    }

    fn write_kubeconfig(&self, user: User, token: &str) -> Result<()> {
        let name = user.name();
        let kubeconfig = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "test", "cluster": {
                "server": format!("https://127.0.0.1:{}", self.ports.apiserver),
                "certificate-authority": self.cert_dir().join("apiserver.crt"),
            }}],
            "users": [{"name": name, "user": {"token": token}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": name}}],
            "current-context": "test",
        });
        fs::write(self.kubeconfig(user), kubeconfig.to_string()).context("kubeconfig")
    }

    fn cert_dir(&self) -> PathBuf {
        self.dir.join("certs")
    }

    fn start_kwok(&mut self) -> Result<Server> {
        let mut command = Command::new(self.programs.join("kwok"));
        command
            .arg(format!("--config={}", self.programs.join("stages.yaml").display()))
            .arg(format!("--kubeconfig={}", self.kubeconfig(User::Admin).display()))
            .arg(format!("--manage-nodes-with-label-selector={}={}", ALIVE.0, ALIVE.1))
            .args(["--node-lease-duration-seconds=40", "--cidr=10.0.0.1/24"])
            .arg(format!("--server-address=127.0.0.1:{}", self.ports.kwok));
        self.guard.spawn("kwok", command, &self.dir)
    }
}

impl Drop for ControlPlane {
    fn drop(&mut self) {
        if !self.passed {
            match self.keep_logs() {
                Ok(kept) => progress(&format!("the logs of the control plane are kept in {}", kept.display())),
                Err(error) => progress(&format!("the logs of the control plane are lost: {error:#}")),
            }
        }
        self.apiserver = None;
        self.others.clear();
        self.guard.end();
    }
}

impl ControlPlane {
    /// Only those of the last failure are kept, so that they never pile up.
    fn keep_logs(&self) -> Result<PathBuf> {
        let kept = home()?.join("last-failure");
        if kept.exists() {
            fs::remove_dir_all(&kept)?;
        }
        fs::create_dir(&kept)?;
        for entry in fs::read_dir(&self.dir)? {
            let path = entry?.path();
            if let (Some(name), Some("log")) = (path.file_name(), path.extension().and_then(|end| end.to_str())) {
                fs::copy(&path, kept.join(name))?;
            }
        }
        Ok(kept)
    }
}

/// A program of this control plane. It ends when this is dropped.
pub struct Server {
    name: String,
    log: PathBuf,
    child: Child,
}

impl Server {
    /// Its process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// How it ended, if it did.
    ///
    /// # Errors
    /// When the system does not tell.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        self.child.try_wait().with_context(|| self.name.clone())
    }

    /// Everything it has written so far.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_else(|error| format!("{}: {error}", self.log.display()))
    }

    /// The end of what it wrote, for an error message.
    #[must_use]
    pub fn log_tail(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        let tail = lines.get(lines.len().saturating_sub(LOG_TAIL_LINES)..).unwrap_or_default();
        format!("the end of {}:\n{}", self.log.display(), tail.join("\n"))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself; then there is nothing to kill, and waiting returns at once.
        if let Err(error) = self.child.kill().and_then(|()| self.child.wait()) {
            progress(&format!("{} may be left behind: {error}", self.name));
        }
    }
}

/// Ends everything that was started, whatever becomes of this process: a shell that waits on a pipe from us,
/// and when that closes kills its own process group, in which all others are.
struct Guard {
    shell: Child,
    pipe: Option<ChildStdin>,
}

impl Guard {
    fn start(dir: &Path) -> Result<Self> {
        // The folder goes first, since the shell does not outlive its own kill.
        let script = r#"read -r _; rm -rf "$1"; kill -KILL 0"#;
        let mut command = Command::new("sh");
        command.args(["-c", script, "guard"]).arg(dir).stdin(Stdio::piped()).process_group(0);
        let mut shell = command.spawn().context("sh")?;
        let pipe = shell.stdin.take();
        Ok(Self { shell, pipe })
    }

    fn spawn(&mut self, name: &str, mut command: Command, dir: &Path) -> Result<Server> {
        let log = dir.join(format!("{name}.log"));
        let output = File::options().create(true).append(true).open(&log)?;
        let group = i32::try_from(self.shell.id()).context("process id")?;
        command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output).process_group(group);
        let child = command.spawn().with_context(|| format!("starting {}", command.get_program().display()))?;
        Ok(Server { name: name.to_owned(), log, child })
    }

    fn end(&mut self) {
        drop(self.pipe.take());
        if let Err(error) = self.shell.wait() {
            progress(&format!("the control plane may be left behind: {error}"));
        }
    }
}

fn start_etcd(guard: &mut Guard, programs: &Path, dir: &Path, ports: Ports) -> Result<Server> {
    let clients = format!("http://127.0.0.1:{}", ports.etcd);
    let peers = format!("http://127.0.0.1:{}", ports.etcd_peers);
    let mut command = Command::new(programs.join("etcd"));
    command
        .arg("--data-dir")
        .arg(dir.join("etcd"))
        .arg("--unsafe-no-fsync")
        .args(["--listen-client-urls", &clients, "--advertise-client-urls", &clients])
        .args(["--listen-peer-urls", &peers, "--initial-advertise-peer-urls", &peers])
        .args(["--initial-cluster", &format!("default={peers}")]);
    guard.spawn("etcd", command, dir)
}

/// Waits until `look` finds something.
///
/// # Errors
/// When it does not within `limit`, or when looking fails: then waiting longer is no use.
pub async fn wait_for<T>(what: &str, limit: Duration, mut look: impl AsyncFnMut() -> Result<Option<T>>) -> Result<T> {
    let mut looks = interval(LOOK_EVERY);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let found = async {
        loop {
            looks.tick().await;
            if let Some(found) = look().await? {
                return Ok(found);
            }
        }
    };
    timeout(limit, found).await.unwrap_or_else(|_| Err(anyhow!("waited {} s in vain for {what}", limit.as_secs())))
}

/// Watches for the whole of `span` that `look` finds nothing: for what must not happen.
///
/// # Errors
/// With what was found, or when looking fails.
pub async fn never<T: std::fmt::Debug>(
    what: &str,
    span: Duration,
    mut look: impl AsyncFnMut() -> Result<Option<T>>,
) -> Result<()> {
    let mut looks = interval(LOOK_EVERY);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let found: Result<Result<T>, _> = timeout(span, async {
        loop {
            looks.tick().await;
            if let Some(found) = look().await? {
                return Ok(found);
            }
        }
    })
    .await;
    match found {
        Ok(Ok(found)) => bail!("{what}: {found:?}"),
        Ok(Err(error)) => Err(error),
        Err(_) => look().await?.map_or(Ok(()), |found| Err(anyhow!("{what}: {found:?}"))),
    }
}

/// One GET on loopback: status and body.
///
/// # Errors
/// When there is no answer, or it is not HTTP.
pub async fn get(port: u16, path: &str) -> Result<(u16, String)> {
    let ask = async {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?;
        // HTTP/1.0: the answer ends with the connection, so nothing needs to be parsed but the first line.
        stream.write_all(format!("GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n").as_bytes()).await?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await?;
        anyhow::Ok(answer)
    };
    let answer = timeout(HTTP_LIMIT, ask).await.with_context(|| format!("no answer from {port}{path}"))??;
    let text = String::from_utf8(answer).context("an answer that is not text")?;
    let (head, body) = text.split_once("\r\n\r\n").with_context(|| format!("not HTTP: {text:?}"))?;
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    Ok((status.with_context(|| format!("not HTTP: {head:?}"))?, body.to_owned()))
}

/// Ports of loopback that nobody listens on. They are below the range from which the system takes the ports of
/// outgoing connections: else a client that keeps trying to reach a stopped API server could be given its port.
///
/// # Errors
/// When there are not enough.
pub fn free_ports<const N: usize>() -> Result<[u16; N]> {
    const FIRST: u16 = 20_000;
    const COUNT: u16 = 12_000;
    static NEXT: AtomicU16 = AtomicU16::new(0);
    // Several runs on one machine begin at different places.
    let begin = u16::try_from(std::process::id() % u32::from(COUNT))?;
    let mut found = Vec::with_capacity(N);
    for _ in 0..COUNT {
        let offset = begin.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) % COUNT;
        if let Ok(listener) = TcpListener::bind((Ipv4Addr::LOCALHOST, FIRST + offset)) {
            found.push(listener);
        }
        if found.len() == N {
            break;
        }
    }
    let ports: Vec<u16> = found.iter().map(|listener| Ok(listener.local_addr()?.port())).collect::<Result<_>>()?;
    ports.try_into().map_err(|_| anyhow!("no {N} free ports from {FIRST} on"))
}

/// The root of the repository.
#[must_use]
pub fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// `<target>/<profile>`: tests are in `deps` below it.
fn profile_dir() -> Result<PathBuf> {
    let exe = std::env::current_exe()?;
    let deps = exe.parent().with_context(|| format!("{} is not in a target folder", exe.display()))?;
    deps.parent().map(Path::to_owned).with_context(|| format!("{} is not in a target folder", exe.display()))
}

fn target() -> Result<PathBuf> {
    let profile = profile_dir()?;
    profile.parent().map(Path::to_owned).with_context(|| format!("{} has no parent", profile.display()))
}

/// `<target>/control-plane`.
fn home() -> Result<PathBuf> {
    let home = target()?.join("control-plane");
    fs::create_dir_all(&home)?;
    Ok(home)
}

/// Builds what is missing or was pinned anew, and returns the folder of the programs. They are stamped with
/// the pins they were built from.
async fn build() -> Result<PathBuf> {
    let home = home()?;
    let bin = home.join("bin");
    fs::create_dir_all(&bin)?;
    // Two test runs at once would write the same files.
    let lock = File::create(home.join("lock"))?;
    lock.lock()?;
    for module in [&APISERVER, &KWOK] {
        let folder = repository().join("tests/control-plane").join(module.folder);
        let pins = fs::read_to_string(folder.join("go.mod"))? + &fs::read_to_string(folder.join("go.sum"))?;
        let stamp = bin.join(format!("{}.stamp", module.folder));
        let complete = module.programs.iter().all(|(name, _)| bin.join(name).exists());
        if complete && fs::read_to_string(&stamp).is_ok_and(|built| built == pins) {
            continue;
        }
        // An interrupted build must not pass for the one before it.
        if stamp.exists() {
            fs::remove_file(&stamp)?;
        }
        for (name, package) in module.programs {
            let output = bin.join(name).display().to_string();
            let arguments = ["build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w", "-o", &output, package];
            go(name, &folder, &arguments).await?;
        }
        fs::write(stamp, pins)?;
    }
    if !bin.join("key.pem").exists() {
        // Go's own example program; it saves a dependency for one key that signs tokens on loopback. What
        // verifies them is the certificate beside it: a public key alone it does not write.
        let root = go("go env", &bin, &["env", "GOROOT"]).await?;
        let program = format!("{}/src/crypto/tls/generate_cert.go", root.trim());
        go("a service account key", &bin, &["run", &program, "--host=127.0.0.1", "--ecdsa-curve=P256"]).await?;
    }
    fs::write(bin.join("stages.yaml"), stages().await?)?;
    Ok(bin)
}

/// KWOK's stages, from its own module, in one file.
async fn stages() -> Result<String> {
    let folder = repository().join("tests/control-plane").join(KWOK.folder);
    let answer = go("KWOK's module", &folder, &["mod", "download", "-json", "sigs.k8s.io/kwok"]).await?;
    let answer: Value = serde_json::from_str(&answer)?;
    let module = answer.pointer("/Dir").and_then(Value::as_str).context("`go mod download` names no folder")?;
    let module = Path::new(module);
    let mut all = String::new();
    for stage in STAGES {
        let mut files = Vec::new();
        for entry in fs::read_dir(module.join(stage)).with_context(|| stage.to_owned())? {
            let path = entry?.path();
            let is_yaml = path.extension().is_some_and(|end| end == "yaml");
            if is_yaml && !path.ends_with("kustomization.yaml") {
                files.push(path);
            }
        }
        files.sort();
        for file in files {
            write!(all, "---\n{}\n", fs::read_to_string(file)?)?;
        }
    }
    Ok(all)
}

/// Runs Go, at the lowest priority: a cold build takes minutes on all cores.
async fn go(what: &str, folder: &Path, arguments: &[&str]) -> Result<String> {
    let is_build = matches!(arguments, ["build", ..]);
    let mut command = tokio::process::Command::new("nice");
    command.args(["-n", "19", "go"]).args(arguments).current_dir(folder);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true);
    if is_build {
        progress(&format!("control plane: building {what} (minutes the first time)"));
    } else {
        command.stderr(Stdio::piped());
    }
    let child = command.spawn().context("nice and go are needed on the PATH; see tests/control-plane/README.md")?;
    let mut still_there = interval(PROGRESS_EVERY);
    still_there.tick().await;
    let mut output = std::pin::pin!(child.wait_with_output());
    let output = loop {
        tokio::select! {
            output = &mut output => break output?,
            _ = still_there.tick() => progress(&format!("control plane: still building {what}")),
        }
    };
    succeeded("go", arguments, output)
}

fn succeeded(program: &str, arguments: &[&str], output: Output) -> Result<String> {
    let stderr = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{program} {}: {}, {stderr}", arguments.join(" "), output.status);
    String::from_utf8(output.stdout).with_context(|| format!("{program} printed something that is not text"))
}

/// Written past the test's captured output: nobody should wonder for minutes what a test is doing.
fn progress(line: &str) {
    let mut stderr = std::io::stderr();
    // Whoever closed it does not want to know.
    let _closed = writeln!(stderr, "{line}");
}
