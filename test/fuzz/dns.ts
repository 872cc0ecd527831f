/**
 * Hostile DNS messages, as a client's and as a server's: `scripts/node test/fuzz/dns.ts [RUNS] [SEED]`.
 *
 * Every one is to be handled without a throw, each question answered by a message for it, and the heap is not to grow between a tenth
 * of the runs and the last. Prints one line of JSON; exits with 1 and says what failed otherwise.
 */
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { Worker } from 'node:worker_threads';
import fc from 'fast-check';
import { FakeAddresses } from '../../dns/fake.ts';
import { encodeName, type Query, RCODE, readQuery, rename } from '../../dns/message.ts';
import { Responder } from '../../dns/responder.ts';
import { answer, ask, name, opt, pointer, record, soa, uint16 } from '../unit/dns/wire.ts';

const runs = Number(process.argv[2] ?? 20_000);
const seed = Number(process.argv[3] ?? Date.now() % 0x7fffffff);
/** Runs together between two looks at the time: the whole process is ended when one such turn takes longer. */
const BATCH = 500;
const BATCH_MS = 60_000;
const GROWTH_BYTES = 16 * 1024 * 1024;

const TYPES = [1, 2, 5, 6, 12, 14, 15, 16, 17, 24, 26, 28, 30, 33, 35, 39, 41, 65, 250, 252, 255, 65_280];
const NAMES = [
  '',
  'web',
  'WeB.shop',
  'web.shop.svc.cluster.local',
  '7.0.96.10.in-addr.arpa',
  'localhost',
  'a.b.c.d.e.example',
];

/** What stands before the last name of a type's data. */
const SOUND_DATA = new Map([
  [6, name('ns')],
  [14, name('a')],
  [15, uint16(1)],
  [17, name('a')],
  [24, Buffer.alloc(18)],
  [26, Buffer.concat([uint16(1), name('a')])],
  [33, Buffer.alloc(6)],
  [35, Buffer.from('\x00\x01\x00\x01\x01S\x01x\x00', 'latin1')],
]);

const offset = fc.oneof(fc.constantFrom(0, 4, 11, 12, 13, 16), fc.nat(0x3fff));
const dnsName = fc.oneof(
  fc.constantFrom(...NAMES).map((text) => name(text)),
  offset.map(pointer),
  fc
    .tuple(fc.uint8Array({ minLength: 1, maxLength: 63 }), offset)
    .map(([label, at]) => Buffer.concat([Buffer.of(label.length), label, pointer(at)])),
  // Many labels of one byte; and a row of pointers, each to the one before.
  fc
    .tuple(fc.nat(130), offset)
    .map(([count, at]) => Buffer.concat([...Array.from({ length: count }, () => Buffer.of(1, 0x61)), pointer(at)])),
  fc.nat(200).map((count) => Buffer.concat(Array.from({ length: count }, (_, i) => pointer(12 + 2 * i)))),
  fc.uint8Array({ maxLength: 20 }).map((bytes) => Buffer.from(bytes)),
);
const dnsType = fc.oneof(fc.constantFrom(...TYPES), fc.nat(0xffff));
const data = fc.oneof(
  fc.uint8Array({ maxLength: 40 }).map((bytes) => Buffer.from(bytes)),
  dnsName,
  fc.tuple(fc.uint8Array({ maxLength: 18 }), dnsName, dnsName).map((parts) => Buffer.concat(parts)),
);
const dnsRecord = fc.oneof(
  fc
    .tuple(dnsName, dnsType, fc.nat(0xffffffff), data)
    .map(([owner, type, ttlS, bytes]) => record(owner, type, ttlS, bytes)),
  fc
    .tuple(fc.nat(0xffff), fc.nat(255), fc.nat(2))
    .map(([udpBytes, rcode, version]) => opt({ udpBytes, rcode, version })),
  fc.tuple(fc.nat(0xffff), fc.nat(0xffff)).map(([ttlS, minimumS]) => soa(name('cluster.local'), ttlS, minimumS)),
);
const count = fc.oneof({ weight: 3, arbitrary: fc.nat(3) }, fc.constantFrom(0xffff, 0x7fff), fc.nat(0xffff));
/** Records may be many, so that pointers have much to point at. */
const built = fc
  .record({
    flags: fc.constantFrom(0x0100, 0x0000, 0x8180, 0x8183, 0x8182, 0x8380, 0x2800, 0x0110, 0xffff),
    question: fc
      .tuple(dnsName, dnsType, fc.constantFrom(1, 1, 1, 3, 255))
      .map(([qname, type, qclass]) => Buffer.concat([qname, uint16(type), uint16(qclass)])),
    records: fc.array(dnsRecord, { maxLength: 12 }),
    repeat: fc.constantFrom(1, 1, 1, 1, 1, 1, 1, 40),
    counts: fc.tuple(fc.constantFrom(1, 1, 1, 1, 0, 2, 0xffff), count, count, count),
    honest: fc.boolean(),
  })
  .map(({ flags, question, records, repeat, counts, honest }) => {
    const all = Array.from({ length: repeat }, () => records).flat();
    const header = [0x1234, flags, ...(honest ? [1, all.length, 0, 0] : counts)].map(uint16);
    return Buffer.concat([...header, question, ...all]).subarray(0, 65_535);
  });
/** With nothing wrong in it, but for what its numbers say. */
const sound = fc
  .tuple(
    fc.constantFrom(0x8180, 0x8180, 0x8180, 0x8583, 0x8182),
    fc.constantFrom(...NAMES),
    fc.array(
      fc
        .tuple(
          fc.constantFrom(...NAMES),
          fc.boolean(),
          fc.constantFrom(...TYPES),
          fc.nat(600),
          fc.constantFrom(...NAMES),
        )
        .map(([owner, same, type, ttlS, target]) =>
          record(
            same ? pointer(12) : name(owner),
            type,
            ttlS,
            Buffer.concat([SOUND_DATA.get(type) ?? Buffer.alloc(0), name(target)]),
          ),
        ),
      { maxLength: 6 },
    ),
    fc.nat(600),
  )
  .map(([flags, qname, answers, ttlS]) =>
    answer(qname, 1, { flags, answers, authorities: [soa(name('local'), ttlS, 30)] }),
  );
const mutated = fc
  .tuple(fc.oneof(built, sound), fc.array(fc.tuple(fc.nat(300), fc.nat(255)), { maxLength: 6 }), fc.nat(400))
  .map(([bytes, changes, cut]) => {
    const copy = Buffer.from(bytes);
    for (const [at, value] of changes) if (at < copy.length) copy[at] = value;
    return copy.subarray(0, Math.max(12, copy.length - (cut < 40 ? cut : 0)));
  });
const hostile = fc.oneof(
  { weight: 1, arbitrary: fc.uint8Array({ maxLength: 600 }).map((bytes) => Buffer.from(bytes)) },
  { weight: 3, arbitrary: built },
  { weight: 2, arbitrary: sound },
  { weight: 3, arbitrary: mutated },
);

let upstream: Buffer = Buffer.alloc(0);
/** The hostile bytes, made to look like the answer to this question, or as they are. */
const answerHostile = async (question: Buffer): Promise<Buffer> => {
  if (upstream.length < 12 || (upstream[0] as number) % 8 === 7) return upstream;
  const asking = Buffer.from(upstream);
  asking.writeUInt16BE(0x0100, 2);
  const records = upstream.subarray(readQuery(asking)?.end ?? 12);
  const head = question.subarray(12, (readQuery(question) as Query).end);
  const out = Buffer.concat([upstream.subarray(0, 12), head, records]).subarray(0, 65_535);
  question.copy(out, 0, 0, 2);
  out[2] = (upstream[2] as number) | 0x80;
  out.writeUInt16BE(1, 4);
  return out;
};
let clockMs = 0;
const responder = new Responder({
  mode: 'split',
  search: () => ['shop.svc.cluster.local', 'svc.cluster.local', 'cluster.local'],
  clusterUp: () => clockMs % 16 !== 0,
  askCluster: answerHostile,
  askHost: answerHostile,
  isClusterAddress: (address) => address.startsWith('10.96.'),
  fake: new FakeAddresses('198.18.0.0/24'),
  nowMs: () => clockMs,
});

const asked = encodeName('web.shop.svc.cluster.local') as Buffer;
const client = readQuery(ask('web.shop', 1)) as Query;
let answered = 0;
let dropped = 0;
let renamed = 0;

async function handle(bytes: Buffer): Promise<void> {
  clockMs += 50;
  if (rename(bytes, client, { asked })) renamed += 1;
  upstream = bytes;
  for (const question of [bytes, ask(`h${clockMs % 700}.shop`, TYPES[clockMs % TYPES.length] as number)]) {
    const reply = await new Promise<Buffer | undefined>((resolve) => responder.respond(question, 'udp', resolve));
    if (!reply) {
      dropped += 1;
      continue;
    }
    answered += 1;
    const whole = reply.length >= 12 && reply.length <= 1232 && reply.readUInt16BE(0) === question.readUInt16BE(0);
    if (!whole || ((reply[2] as number) & 0x80) === 0)
      throw new Error(`answered ${question.toString('hex')} by ${reply.toString('hex')}`);
    // BADVERS has a code that only an OPT can hold, which is none to pass on.
    const { fault } = readQuery(question) as Query;
    if (fault !== RCODE.badVers && reply.readUInt16BE(4) === 1 && !rename(reply, client, { asked })) {
      throw new Error(
        `malformed answer ${reply.toString('hex')} to ${question.toString('hex')}, upstream ${bytes.toString('hex')}`,
      );
    }
  }
}

setFlagsFromString('--expose-gc');
const collect = runInNewContext('gc') as () => void;

/** A thread of its own ends a process that hangs, which no timer of this one would. */
const watchdog = new Worker(
  `const { parentPort } = require('node:worker_threads');
   let timer;
   parentPort.on('message', (text) => {
     clearTimeout(timer);
     if (text) timer = setTimeout(() => { require('node:fs').writeSync(2, 'hangs at ' + text + '\\n'); process.kill(process.pid, 'SIGKILL'); }, ${BATCH_MS});
     else parentPort.close();
   });`,
  { eval: true },
);

const startMs = performance.now();
let early = 0;
for (let done = 0; done < runs; ) {
  const numRuns = Math.min(BATCH, runs - done);
  watchdog.postMessage(`run ${done}, seed ${seed}`);
  const details = await fc.check(fc.asyncProperty(hostile, handle), { numRuns, seed: seed + done, endOnFailure: true });
  if (details.failed) {
    console.error(fc.defaultReportMessage(details));
    process.exit(1);
  }
  done += numRuns;
  if (early === 0 && done >= runs / 10) {
    collect();
    early = process.memoryUsage().heapUsed;
  }
}
watchdog.postMessage('');
collect();
const growthBytes = process.memoryUsage().heapUsed - early;
const { entries, bytes, underWay } = responder.cache;
console.log(
  JSON.stringify({
    runs,
    seed,
    seconds: Math.round((performance.now() - startMs) / 1000),
    answered,
    dropped,
    renamed,
    growthBytes,
    entries,
    bytes,
    stats: responder.stats,
  }),
);
if (underWay > 0 || responder.waiting > 0 || growthBytes > GROWTH_BYTES) {
  console.error(`the heap grew by ${growthBytes} bytes, and ${underWay} questions are under way`);
  process.exit(1);
}
