//! WASI for components that import it: nothing inherited, no files, no sockets. Its clocks stand still and its
//! random numbers are a fixed sequence, anew in each store, so that a component which merely links them stays a
//! function of node and settings. What it prints becomes log lines.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use wasmtime::component::{Linker, ResourceTable};
use wasmtime_wasi::cli::{IsTerminal, StdoutStream, WasiCli, WasiCliView as _};
use wasmtime_wasi::filesystem::{WasiFilesystem, WasiFilesystemView as _};
use wasmtime_wasi::p2::{self, OutputStream, Pollable, StreamError, bindings};
use wasmtime_wasi::random::WasiRandom;
use wasmtime_wasi::{Deterministic, HostMonotonicClock, HostWallClock, WasiCtx, WasiCtxView, WasiView};

use crate::host::{Host, Log, LogLevel};
use crate::limits::{self, Limits};

/// The WASI side of one store.
pub(crate) struct Wasi {
    ctx: WasiCtx,
    table: ResourceTable,
    stdout: Printed,
    stderr: Printed,
}

/// Links everything but sockets: whoever imports those was refused before, and nothing answers them.
pub(crate) fn add_to_linker(linker: &mut Linker<Host>) -> wasmtime::Result<()> {
    p2::add_to_linker_proxy_interfaces_async(linker)?;
    bindings::random::insecure::add_to_linker::<Host, WasiRandom>(linker, |host| host.ctx().ctx.random())?;
    bindings::random::insecure_seed::add_to_linker::<Host, WasiRandom>(linker, |host| host.ctx().ctx.random())?;
    bindings::cli::exit::add_to_linker::<Host, WasiCli>(linker, Host::cli)?;
    bindings::cli::environment::add_to_linker::<Host, WasiCli>(linker, Host::cli)?;
    bindings::cli::terminal_input::add_to_linker::<Host, WasiCli>(linker, Host::cli)?;
    bindings::cli::terminal_output::add_to_linker::<Host, WasiCli>(linker, Host::cli)?;
    bindings::cli::terminal_stdin::add_to_linker::<Host, WasiCli>(linker, Host::cli)?;
    bindings::cli::terminal_stdout::add_to_linker::<Host, WasiCli>(linker, Host::cli)?;
    bindings::cli::terminal_stderr::add_to_linker::<Host, WasiCli>(linker, Host::cli)?;
    bindings::filesystem::preopens::add_to_linker::<Host, WasiFilesystem>(linker, Host::filesystem)?;
    bindings::filesystem::types::add_to_linker::<Host, WasiFilesystem>(linker, Host::filesystem)
}

impl Wasi {
    /// A context of its own for one store. With `clock` granted its clocks and random numbers are real.
    pub(crate) fn new(limits: &Limits, clock: bool) -> Box<Self> {
        let room = limits.log_lines as usize * limits.log_line;
        let (stdout, stderr) = (Printed::new(room), Printed::new(room));
        let mut builder = WasiCtx::builder();
        builder.stdout(stdout.clone()).stderr(stderr.clone()).max_random_size(limits::ANSWER as u64);
        builder.allow_tcp(false).allow_udp(false).allow_ip_name_lookup(false);
        if !clock {
            let sequence = || Deterministic::new((0..=255).collect());
            builder.wall_clock(Frozen).monotonic_clock(Frozen);
            builder.secure_random(sequence()).insecure_random(sequence()).insecure_random_seed(0);
        }
        let mut table = ResourceTable::new();
        table.set_max_capacity(limits::RESOURCES);
        Box::new(Self { ctx: builder.build(), table, stdout, stderr })
    }

    /// Moves what was printed to the log, line by line.
    pub(crate) fn drain_into(&self, log: &mut Log) {
        for (printed, level) in [(&self.stdout, LogLevel::Info), (&self.stderr, LogLevel::Warn)] {
            let text = printed.take();
            for line in String::from_utf8_lossy(&text).lines().filter(|line| !line.is_empty()) {
                log.write(level, line.to_owned());
            }
        }
    }
}

impl WasiView for Host {
    #[expect(clippy::expect_used, reason = "the linker that reaches this is only used with a context, in `Plugin`")]
    fn ctx(&mut self) -> WasiCtxView<'_> {
        let wasi = self.wasi.as_mut().expect("a store of a WASI component has a WASI context");
        WasiCtxView { ctx: &mut wasi.ctx, table: &mut wasi.table }
    }
}

/// A clock that stands still.
struct Frozen;

impl HostWallClock for Frozen {
    fn resolution(&self) -> Duration {
        Duration::from_nanos(1)
    }

    fn now(&self) -> Duration {
        Duration::ZERO
    }
}

impl HostMonotonicClock for Frozen {
    fn resolution(&self) -> u64 {
        1
    }

    fn now(&self) -> u64 {
        0
    }
}

/// What a guest printed, as far as there is room. The rest is swallowed: an error would make many a runtime
/// abort over a lost log line.
#[derive(Clone)]
struct Printed {
    text: Arc<Mutex<Vec<u8>>>,
    room: usize,
}

impl Printed {
    fn new(room: usize) -> Self {
        Self { text: Arc::default(), room }
    }

    fn take(&self) -> Vec<u8> {
        std::mem::take(&mut *crate::lock(&self.text))
    }

    fn push(&self, bytes: &[u8]) {
        let mut text = crate::lock(&self.text);
        let fits = bytes.len().min(self.room.saturating_sub(text.len()));
        text.extend_from_slice(bytes.get(..fits).unwrap_or_default());
    }
}

impl IsTerminal for Printed {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for Printed {
    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }

    fn async_stream(&self) -> Box<dyn tokio::io::AsyncWrite + Send + Sync> {
        Box::new(tokio::io::sink())
    }
}

#[wasmtime_wasi::async_trait]
impl Pollable for Printed {
    async fn ready(&mut self) {}
}

#[wasmtime_wasi::async_trait]
impl OutputStream for Printed {
    fn write(&mut self, bytes: Bytes) -> Result<(), StreamError> {
        self.push(&bytes);
        Ok(())
    }

    fn flush(&mut self) -> Result<(), StreamError> {
        Ok(())
    }

    fn check_write(&mut self) -> Result<usize, StreamError> {
        Ok(limits::LOG_LINE * 4)
    }
}
