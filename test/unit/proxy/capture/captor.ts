import dgram from 'node:dgram';
import { once } from 'node:events';
import { readdirSync, readlinkSync } from 'node:fs';
import net from 'node:net';
import { Duplex } from 'node:stream';
import { type ErrorCode, LpkError } from '../../../../agent/wire/errors.ts';
import type { Resettable } from '../../../../agent/wire/pump.ts';
import { startCapture } from '../../../../proxy/capture/capture.ts';
import type { Dial, Flow } from '../../../../proxy/flow.ts';

/**
 * A program for the tests: runs the command of its arguments under capture, with a cluster that is made up, and exits as the command did.
 * On file descriptor 3 it tells what the cluster saw, as JSON. 10.0.0.1 and fd00::1 are its echo server; the other
 * addresses do as the table says; its DNS knows web.test, outside.test (beyond the ranges), and big.test.
 */

const FATES: Record<string, ErrorCode | 'no-tunnel' | 'never' | 'slow' | 'at SIGUSR2'> = {
  '10.0.0.2': 'refused',
  '10.0.0.3': 'timed-out',
  '10.0.0.4': 'unreachable',
  '10.0.0.5': 'not-allowed',
  '10.0.0.6': 'no-tunnel',
  '10.0.0.7': 'never',
  '10.0.0.8': 'slow',
  '10.0.0.9': 'at SIGUSR2',
};

/** A dial that nobody abandons ends at last, within the tests' own limit. */
const NEVER_MS = 20_000;

const signalled = once(process, 'SIGUSR2');
const flows: Flow[] = [];
const open = new Set<Duplex>();
let resets = 0;

class Echo extends Duplex {
  #flow: Flow;

  constructor(flow: Flow) {
    const datagrams = flow.protocol === 'udp';
    super({ objectMode: datagrams, allowHalfOpen: !datagrams });
    this.#flow = flow;
    open.add(this);
    this.once('close', () => open.delete(this));
  }

  override _read() {}
  override _write(chunk: Buffer, _encoding: string, done: () => void) {
    const { host, port, protocol } = this.#flow;
    this.push(Buffer.from(`${chunk} ${protocol} ${host} ${port}`));
    done();
  }
  override _final(done: () => void) {
    this.push(null);
    done();
  }
}

const dial: Dial = (flow) => {
  flows.push(flow);
  const fate = FATES[flow.host];
  if (fate === 'no-tunnel') throw new LpkError('link-lost', 'there is no tunnel');
  const echo = new Echo(flow);
  const stream: Resettable = Object.assign(echo, {
    reset: () => {
      resets += 1;
      echo.destroy(new LpkError('cancelled', 'reset'));
    },
  });
  const opened = new Promise<void>((resolve, reject) => {
    if (fate === 'slow') setTimeout(resolve, 300);
    else if (fate === 'at SIGUSR2') signalled.then(() => resolve(), reject);
    else if (fate === undefined) setImmediate(resolve);
    else {
      const fail = () => {
        echo.destroy(new LpkError(fate === 'never' ? 'timed-out' : (fate as ErrorCode), 'it was to fail'));
      };
      if (fate === 'never') setTimeout(fail, NEVER_MS).unref();
      else setImmediate(fail);
    }
    echo.once('error', reject);
  });
  opened.catch(() => {});
  return { stream, opened, replyEarly: false };
};

async function askDns(question: Buffer): Promise<Buffer> {
  const end = question.indexOf(0, 12) + 5;
  const name = question.subarray(12, end - 5).toString('latin1');
  const address = { '\x03web\x04test': '0a000001', '\x07outside\x04test': 'cb007101', '\x03big\x04test': '0a000001' }[
    name
  ];
  if (name.startsWith('\x06broken')) throw new Error('no way to ask');
  const isA = question.readUInt16BE(end - 4) === 1;
  const count = !isA || !address ? 0 : name.startsWith('\x03big') ? 100 : 1;
  const records = Array.from({ length: count }, () => Buffer.from(`c00c00010001000000050004${address}`, 'hex'));
  const answer = Buffer.concat([question.subarray(0, end), ...records]);
  answer.writeUInt16BE(address ? 0x8180 : 0x8183, 2);
  answer.writeUInt16BE(count, 6);
  answer.fill(0, 8, 12);
  return answer;
}

/**
 * File descriptors of this process, each with what it is of. Their mere number would not tell of a leak: capture's threads still load
 * their modules when the first is counted, and a file is open meanwhile.
 */
function descriptors(): string[] {
  return readdirSync('/proc/self/fd').flatMap((fd) => {
    try {
      return `${fd} ${readlinkSync(`/proc/self/fd/${fd}`)}`;
    } catch {
      return []; // closed meanwhile
    }
  });
}

const report = new net.Socket({ fd: 3 });
const bait = net.createServer((socket) => socket.end('loopback')).listen(0, '127.0.0.1');
const baitUdp = dgram.createSocket('udp4').bind(0, '127.0.0.1');
await Promise.all([once(bait, 'listening'), once(baitUdp, 'listening')]);
const capture = await startCapture({
  dial,
  askDns,
  isClusters: () => true,
  ranges: ['10.0.0.0/8', 'fd00::/8'],
  noRanges: ['10.99.0.0/16'],
  udp: { udpIdleMs: 500 },
});
const before = new Set(descriptors());
const [command = '', ...args] = process.argv.slice(2);
const child = capture.spawn(command, args, {
  env: { ...process.env, BAIT: String((bait.address() as net.AddressInfo).port) },
});
child.on('error', (error) => {
  process.stdout.write(`error ${error.code}\n`);
  process.exit(127);
});
process.on('SIGTERM', () => child.kill('SIGTERM'));
child.once('spawn', () => report.write(`${JSON.stringify({ pid: child.pid })}\n`));
child.once('exit', async (code, signal) => {
  // Its connections end a moment after it.
  while (capture.stats.connections > 0 || open.size > 0) await new Promise((resolve) => setTimeout(resolve, 5));
  const leaked = descriptors().filter((descriptor) => !before.has(descriptor)).length;
  const { stats, missing } = capture;
  await capture.close();
  report.end(`${JSON.stringify({ code, signal, flows, resets, stats, missing, leaked })}\n`);
  report.once('close', () => {
    bait.close();
    baitUdp.close();
    process.exitCode = code ?? 1;
  });
});
