//! The line between two network namespaces: takes packets from one TUN device and gives them to
//! the other when they are due. `link.py` builds and starts it:
//!
//!     rustc -O --edition 2021 relay.rs
//!     relay SERVER_NAMESPACE CLIENT_NAMESPACE [--delay-ms D] [--jitter-ms J] [--loss SHARE]
//!           [--seed N] [--trace FILE --queue-bytes N]
//!
//! Each packet waits the delay and up to the jitter; the order stays. A share is lost, by a seeded
//! generator. With a trace, packets from the server first go through a bottleneck whose rate
//! changes: a queue of so many bytes that drops what does not fit.
//!
//! Prints `ready` when both devices exist. Standard input is the control: each byte starts the
//! trace anew, the end of it ends the relay, which then prints its counters as one line of JSON.
//! So it never outlives the process that started it.

use std::collections::VecDeque;
use std::error::Error;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::raw::{c_int, c_long, c_short, c_ulong};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::io::{AsFd, AsRawFd};
use std::time::Instant;

const CLONE_NEWNET: c_int = 0x4000_0000;
const TUNSETIFF: c_ulong = 0x4004_54ca;
const IFF_TUN: c_short = 0x0001;
const IFF_NO_PI: c_short = 0x1000;
const O_NONBLOCK: c_int = 0o4000;
const POLLIN: c_short = 1;
const SECOND: u64 = 1_000_000_000;

/// No packet is longer than a buffer; the devices have an MTU of 1500.
const BUFFER: usize = 2048;
/// Packets read before those that are due are written.
const BATCH: usize = 64;
/// Packets that wait in one direction (1 GiB of buffers): beyond, they are dropped and counted.
const MAX_WAITING: usize = 1 << 19;
/// While packets wait, look so often: a wake-up costs more than some packets do. Each packet is
/// taken for half of it early or late at most, and handed on likewise: neither, on average.
const TICK: u64 = 500_000;
/// A packet that was handed on so long after its time is counted as late.
const LATE: u64 = 1_000_000;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

#[repr(C)]
struct InterfaceRequest {
    name: [u8; 16],
    flags: c_short,
    rest: [u8; 22],
}

#[repr(C)]
struct PollFd {
    fd: c_int,
    events: c_short,
    revents: c_short,
}

#[repr(C)]
struct TimeSpec {
    seconds: c_long,
    nanoseconds: c_long,
}

extern "C" {
    fn setns(fd: c_int, kind: c_int) -> c_int;
    fn ioctl(fd: c_int, request: c_ulong, ...) -> c_int;
    fn ppoll(fds: *mut PollFd, count: c_ulong, timeout: *const TimeSpec, mask: *const u8) -> c_int;
}

/// Make the device `tun0` in a namespace. This thread stays in that namespace.
fn tun(namespace: &str) -> Result<File> {
    let failed = |what: &str, error: io::Error| format!("{what} in {namespace}: {error}");
    let there =
        File::open(format!("/run/netns/{namespace}")).map_err(|e| failed("namespace", e))?;
    // SAFETY: a plain system call on a descriptor that is open.
    if unsafe { setns(there.as_raw_fd(), CLONE_NEWNET) } != 0 {
        return Err(failed("setns", io::Error::last_os_error()).into());
    }
    let device = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(O_NONBLOCK)
        .open("/dev/net/tun")
        .map_err(|e| failed("/dev/net/tun", e))?;
    let mut request = InterfaceRequest {
        name: [0; 16],
        flags: IFF_TUN | IFF_NO_PI,
        rest: [0; 22],
    };
    request.name[..4].copy_from_slice(b"tun0");
    // SAFETY: the request has the size and layout of the kernel's `struct ifreq`.
    if unsafe { ioctl(device.as_raw_fd(), TUNSETIFF, &mut request) } != 0 {
        return Err(failed("TUNSETIFF", io::Error::last_os_error()).into());
    }
    Ok(device)
}

/// Wait until one of the files can be read, at most so many nanoseconds; says which can.
fn wait<const N: usize>(files: [c_int; N], nanoseconds: u64) -> Result<[bool; N]> {
    let mut fds = files.map(|fd| PollFd {
        fd,
        events: POLLIN,
        revents: 0,
    });
    let timeout = TimeSpec {
        seconds: (nanoseconds / SECOND) as c_long,
        nanoseconds: (nanoseconds % SECOND) as c_long,
    };
    // SAFETY: the array and the timeout live through the call; no signal mask is given.
    let ready = unsafe { ppoll(fds.as_mut_ptr(), N as c_ulong, &timeout, std::ptr::null()) };
    if ready < 0 && io::Error::last_os_error().kind() != ErrorKind::Interrupted {
        return Err(io::Error::last_os_error().into());
    }
    Ok(fds.map(|fd| fd.revents != 0))
}

/// SplitMix64 (Steele, Lea and Flood 2014).
struct Generator(u64);

impl Generator {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Uniform in [0, 1).
    fn uniform(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// A bottleneck: its rate is a step function that repeats, its queue has a limit in bytes.
///
/// As the rate of all times is known, the time at which a packet has passed is known when it comes.
struct Bottleneck {
    /// End of the step in nanoseconds, and its bits per second.
    steps: Vec<(u64, u64)>,
    /// When the trace began.
    origin: u64,
    /// When the last packet will have passed.
    free: u64,
    limit: usize,
    backlog: usize,
    /// When each packet of the queue will have passed, and its bytes.
    queue: VecDeque<(u64, usize)>,
}

impl Bottleneck {
    /// Read a trace: lines of seconds and Mbit/s (1e6 bits), the rate for so long.
    fn read(path: &str, limit: usize) -> Result<Self> {
        let text = fs::read_to_string(path).map_err(|e| format!("{path}: {e}"))?;
        let (mut steps, mut end, mut bits) = (Vec::new(), 0u64, 0.0);
        for (number, line) in text.lines().enumerate() {
            let wrong = || format!("{path}:{}: not 'seconds mbit': {line:?}", number + 1);
            let values: Vec<f64> = line
                .split_whitespace()
                .map(|word| word.parse().map_err(|_| wrong()))
                .collect::<std::result::Result<_, _>>()?;
            match values[..] {
                [s, m] if (1e-6..=1e6).contains(&s) && (0.0..=1e6).contains(&m) => {
                    end += (s * 1e9).round() as u64;
                    steps.push((end, (m * 1e6).round() as u64));
                    bits += s * m * 1e6;
                }
                _ => return Err(wrong().into()),
            }
        }
        if bits < 8.0 * BUFFER as f64 {
            return Err(format!("{path}: the whole trace carries less than a packet").into());
        }
        Ok(Self {
            steps,
            origin: 0,
            free: 0,
            limit,
            backlog: 0,
            queue: VecDeque::new(),
        })
    }

    /// When a packet that comes now will have passed; `None` if the queue is full.
    fn pass(&mut self, now: u64, bytes: usize) -> Option<u64> {
        while self.queue.front().map_or(false, |head| head.0 <= now) {
            self.backlog -= self.queue.pop_front()?.1;
        }
        if self.backlog + bytes > self.limit {
            return None;
        }
        self.free = self.after(now.max(self.free), bytes);
        self.backlog += bytes;
        self.queue.push_back((self.free, bytes));
        Some(self.free)
    }

    /// The time at which so many bytes have passed that began at `start`.
    fn after(&self, start: u64, bytes: usize) -> u64 {
        let period = self.steps[self.steps.len() - 1].0;
        let mut at = start.max(self.origin);
        let mut position = (at - self.origin) % period;
        let mut step = self.steps.partition_point(|step| step.0 <= position);
        let mut left = bytes as u128 * 8 * SECOND as u128;
        loop {
            let (end, rate) = self.steps[step];
            let room = u128::from(rate) * u128::from(end - position);
            if left <= room {
                let rate = u128::from(rate);
                return at + ((left + rate - 1) / rate) as u64;
            }
            left -= room;
            at += end - position;
            step = (step + 1) % self.steps.len();
            position = if step == 0 { 0 } else { end };
        }
    }
}

struct Packet {
    due: u64,
    bytes: usize,
    data: Box<[u8; BUFFER]>,
}

/// One direction: packets wait here until they are due.
struct Way {
    delay: u64,
    jitter: f64,
    loss: f64,
    generator: Generator,
    bottleneck: Option<Bottleneck>,
    waiting: VecDeque<Packet>,
    /// Buffers to use again.
    spare: Vec<Box<[u8; BUFFER]>>,
    last: u64,
    packets: u64,
    bytes: u64,
    lost: u64,
    dropped: u64,
    late: u64,
}

impl Way {
    fn new(options: &Options, number: u64, bottleneck: Option<Bottleneck>) -> Self {
        let mut seeds = Generator(options.seed.wrapping_add(number));
        Self {
            delay: (options.delay_ms * 1e6) as u64,
            jitter: options.jitter_ms * 1e6,
            loss: options.loss,
            generator: Generator(seeds.next()),
            bottleneck,
            waiting: VecDeque::with_capacity(4096),
            spare: Vec::with_capacity(4096),
            last: 0,
            packets: 0,
            bytes: 0,
            lost: 0,
            dropped: 0,
            late: 0,
        }
    }

    /// Read what is there, a batch at most; says whether there may be more.
    fn take(&mut self, mut source: &File, now: u64) -> Result<bool> {
        for _ in 0..BATCH {
            let mut data = self.spare.pop().unwrap_or_else(|| Box::new([0; BUFFER]));
            let bytes = match source.read(&mut data[..]) {
                Ok(bytes) => bytes,
                Err(error) => {
                    self.spare.push(data);
                    if error.kind() == ErrorKind::WouldBlock {
                        return Ok(false);
                    }
                    return Err(error.into());
                }
            };
            match self.due(now, bytes) {
                Some(due) => self.waiting.push_back(Packet { due, bytes, data }),
                None => self.spare.push(data),
            }
        }
        Ok(true)
    }

    /// When a packet that comes now must be handed on; `None` if it does not get through.
    fn due(&mut self, now: u64, bytes: usize) -> Option<u64> {
        if self.loss > 0.0 && self.generator.uniform() < self.loss {
            self.lost += 1;
            return None;
        }
        let passed = match &mut self.bottleneck {
            Some(bottleneck) => bottleneck.pass(now, bytes),
            None => Some(now),
        };
        let passed = passed.filter(|_| self.waiting.len() < MAX_WAITING);
        if passed.is_none() {
            self.dropped += 1;
        }
        let mut due = passed? + self.delay;
        if self.jitter > 0.0 {
            due += (self.generator.uniform() * self.jitter) as u64;
        }
        self.last = self.last.max(due);
        Some(self.last)
    }

    /// Write what is due by a time half a tick ahead; says whether nothing waits any more.
    fn give(&mut self, mut target: &File, now: u64) -> bool {
        while let Some(packet) = self.waiting.front() {
            if packet.due > now {
                return false;
            }
            self.late += u64::from(now - packet.due > LATE + TICK / 2);
            match target.write(&packet.data[..packet.bytes]) {
                Ok(bytes) => {
                    self.packets += 1;
                    self.bytes += bytes as u64;
                }
                // As a real line: what the other side does not take is gone.
                Err(_) => self.dropped += 1,
            }
            self.spare.extend(self.waiting.pop_front().map(|p| p.data));
        }
        true
    }

    fn counters(&self) -> String {
        format!(
            "{{\"packets\": {}, \"bytes\": {}, \"lost\": {}, \"dropped\": {}, \"late\": {}}}",
            self.packets, self.bytes, self.lost, self.dropped, self.late
        )
    }
}

#[derive(Default)]
struct Options {
    namespaces: Vec<String>,
    delay_ms: f64,
    jitter_ms: f64,
    loss: f64,
    seed: u64,
    trace: Option<String>,
    queue_bytes: usize,
}

impl Options {
    fn parse(mut words: impl Iterator<Item = String>) -> Result<Self> {
        let mut options = Self::default();
        while let Some(word) = words.next() {
            if !word.starts_with("--") {
                options.namespaces.push(word);
                continue;
            }
            let value = words.next().ok_or(format!("{word} needs a value"))?;
            let bad = |_| format!("{word} {value}: not a number");
            match word.as_str() {
                "--delay-ms" => options.delay_ms = value.parse().map_err(bad)?,
                "--jitter-ms" => options.jitter_ms = value.parse().map_err(bad)?,
                "--loss" => options.loss = value.parse().map_err(bad)?,
                "--seed" => options.seed = value.parse().map_err(|_| "--seed: not an integer")?,
                "--queue-bytes" => {
                    options.queue_bytes =
                        value.parse().map_err(|_| "--queue-bytes: not an integer")?;
                }
                "--trace" => options.trace = Some(value),
                _ => return Err(format!("unknown option {word}").into()),
            }
        }
        let noise = [options.delay_ms, options.jitter_ms, options.loss];
        if options.namespaces.len() != 2 || !noise.iter().all(|x| (0.0..1e6).contains(x)) {
            return Err("needs two namespaces; no option may be negative".into());
        }
        Ok(options)
    }
}

/// Seconds of processor time of this process, the kernel's work for it included.
fn processor_seconds() -> Result<f64> {
    let text = fs::read_to_string("/proc/self/schedstat")?;
    let nanoseconds: u64 = text.split_whitespace().next().unwrap_or("").parse()?;
    Ok(nanoseconds as f64 / SECOND as f64)
}

fn relay() -> Result<()> {
    let options = Options::parse(std::env::args().skip(1))?;
    let bottleneck = match &options.trace {
        Some(path) => Some(Bottleneck::read(path, options.queue_bytes)?),
        None => None,
    };
    let server = tun(&options.namespaces[0])?;
    let client = tun(&options.namespaces[1])?;
    let mut down = Way::new(&options, 0, bottleneck);
    let mut up = Way::new(&options, 1, None);
    let mut control = File::from(io::stdin().as_fd().try_clone_to_owned()?);
    let begin = Instant::now();
    let clock = || begin.elapsed().as_nanos() as u64;
    let mut report = io::stdout();
    writeln!(report, "ready")?;
    let (mut before, mut slept) = (0, false);
    loop {
        let now = clock();
        let came = if slept { (before + now) / 2 } else { now };
        let more = down.take(&server, came)? | up.take(&client, came)?;
        let due = now + TICK / 2;
        let idle = down.give(&client, due) & up.give(&server, due);
        let controlled = if idle {
            let fds = [control.as_raw_fd(), server.as_raw_fd(), client.as_raw_fd()];
            wait(fds, SECOND)?[0]
        } else {
            let left = if more { 0 } else { TICK - clock() % TICK };
            wait([control.as_raw_fd()], left)?[0]
        };
        (before, slept) = (now, !idle && !more);
        if controlled {
            if control.read(&mut [0; 1])? == 0 {
                break;
            }
            if let Some(bottleneck) = &mut down.bottleneck {
                bottleneck.origin = clock();
            }
        }
    }
    writeln!(
        report,
        "{{\"seconds\": {:.3}, \"cpu_seconds\": {:.3}, \"down\": {}, \"up\": {}}}",
        begin.elapsed().as_secs_f64(),
        processor_seconds()?,
        down.counters(),
        up.counters()
    )?;
    Ok(())
}

fn main() {
    if let Err(error) = relay() {
        eprintln!("relay: {error}");
        std::process::exit(1);
    }
}
