//! What 100 000 nodes cost: `cargo run --release -p apgar-sim --example hundred_thousand [nodes]`.

use std::error::Error;
use std::time::Duration;

use apgar_sim::{ApiServer, Fleet, Pace, Shape, SimConfig, Story};
use futures_util::future::try_join_all;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::time::Instant;

const PAGE: usize = 500;
const WATCHES: usize = 10;
const CHANGES: usize = 10_000;

type Failure = Box<dyn Error + Send + Sync>;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Failure> {
    let count: usize = match std::env::args().nth(1) {
        Some(count) => count.parse()?,
        None => 100_000,
    };
    let server = ApiServer::start(SimConfig { history: 20_000, ..SimConfig::default() })?;
    let third = count / 3;
    let fleet = Fleet::new(1, &[(Shape::CivoFlannel, third), (Shape::Eks, third), (Shape::Gke, count - 2 * third)]);
    let before = resident_mib()?;
    let start = Instant::now();
    fleet.install(&server)?;
    println!(
        "{} nodes and leases installed in {:.2?} ({:.1} s of CPU), {} MiB resident, {} before",
        server.nodes().len(),
        start.elapsed(),
        cpu_seconds()?,
        resident_mib()?,
        before
    );

    let mut client = Client::connect(&server).await?;
    let (start, busy) = (Instant::now(), cpu_seconds()?);
    let (mut token, mut pages, mut bytes) = (String::new(), 0, 0);
    loop {
        let page = client.get(&format!("/api/v1/nodes?limit={PAGE}&continue={token}")).await?;
        pages += 1;
        bytes += page.len();
        token = continue_token(&page);
        if token.is_empty() {
            break;
        }
    }
    let spent = cpu_seconds()? - busy;
    println!(
        "{pages} pages of {PAGE}, {} MiB, in {:.2?}, {spent:.2} s of CPU with the client's",
        bytes >> 20,
        start.elapsed()
    );

    let start = Instant::now();
    let page = client.get("/api/v1/nodes?limit=500&labelSelector=eks.amazonaws.com/nodegroup%3Dnobody").await?;
    println!("a selector that matches none of them in {:.2?} ({} bytes)", start.elapsed(), page.len());

    let mut watches = Vec::new();
    let from = server.resource_version();
    for _ in 0..WATCHES {
        let mut client = Client::connect(&server).await?;
        client.send(&format!("/api/v1/nodes?watch=true&resourceVersion={from}")).await?;
        watches.push(async move { client.read_events(CHANGES).await });
    }
    let name = server.nodes().keys().swap_remove(0);
    let start = Instant::now();
    let updates = async {
        for n in 0..CHANGES {
            server.nodes().update(&name, |node| {
                if let Some(annotations) = node.pointer_mut("/metadata/annotations").and_then(|a| a.as_object_mut()) {
                    annotations.insert("n".to_owned(), n.to_string().into());
                }
            })?;
            if n % 64 == 0 {
                tokio::task::yield_now().await;
            }
        }
        println!("{CHANGES} updates in {:.2?}", start.elapsed());
        Ok::<_, Failure>(())
    };
    let (seen, ()) = tokio::try_join!(try_join_all(watches), updates)?;
    let bytes: usize = seen.iter().sum();
    println!("seen by {WATCHES} watches after {:.2?}, {} MiB", start.elapsed(), bytes >> 20);

    let busy = cpu_seconds()?;
    let from = server.resource_version();
    let start = Instant::now();
    let _running = fleet.run(&server, Pace::default(), &Story::new())?;
    println!("installed again in {:.2?}", start.elapsed());
    let (busy_installed, start) = (cpu_seconds()?, Instant::now());
    tokio::time::sleep(Duration::from_secs(10)).await;
    println!(
        "lives: {:.2} cores for 10 s, {} writes in all, {} MiB resident ({:.1} s of CPU before)",
        (cpu_seconds()? - busy_installed) / start.elapsed().as_secs_f64(),
        server.resource_version() - from,
        resident_mib()?,
        busy_installed - busy,
    );
    Ok(())
}

struct Client(BufReader<TcpStream>);

impl Client {
    async fn connect(server: &ApiServer) -> Result<Self, Failure> {
        Ok(Self(BufReader::with_capacity(1 << 20, TcpStream::connect(server.address()).await?)))
    }

    async fn send(&mut self, target: &str) -> Result<usize, Failure> {
        let request = format!("GET {target} HTTP/1.1\r\nHost: sim\r\n\r\n");
        self.0.get_mut().write_all(request.as_bytes()).await?;
        let mut length = 0;
        loop {
            let mut line = String::new();
            self.0.read_line(&mut line).await?;
            if line.trim().is_empty() {
                return Ok(length);
            }
            if let Some(value) = line.to_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse()?;
            }
        }
    }

    async fn get(&mut self, target: &str) -> Result<Vec<u8>, Failure> {
        let mut body = vec![0; self.send(target).await?];
        self.0.read_exact(&mut body).await?;
        Ok(body)
    }

    /// Reads so many events; chunk headers do not look like one.
    async fn read_events(&mut self, count: usize) -> Result<usize, Failure> {
        let (mut seen, mut bytes, mut line) = (0, 0, Vec::new());
        while seen < count {
            line.clear();
            let read = self.0.read_until(b'\n', &mut line).await?;
            if read == 0 {
                return Err("the watch ended early".into());
            }
            bytes += read;
            seen += usize::from(line.starts_with(b"{\"type\""));
        }
        Ok(bytes)
    }
}

fn continue_token(page: &[u8]) -> String {
    let head = String::from_utf8_lossy(page.get(..300).unwrap_or(page)).into_owned();
    let token = head.split_once("\"continue\":\"").and_then(|(_, rest)| rest.split_once('"'));
    token.map_or_else(String::new, |(token, _)| token.to_owned())
}

fn resident_mib() -> Result<u64, Failure> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).ok_or("no VmRSS")?;
    let kib: u64 = line.trim().trim_end_matches(" kB").parse()?;
    Ok(kib / 1024)
}

/// User and system time, at the usual 100 ticks a second.
fn cpu_seconds() -> Result<f64, Failure> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let after_name = stat.rsplit_once(") ").ok_or("no stat")?.1;
    let ticks: u64 = after_name.split(' ').skip(11).take(2).filter_map(|t| t.parse::<u64>().ok()).sum();
    Ok(ticks as f64 / 100.0)
}
