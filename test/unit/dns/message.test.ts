import assert from 'node:assert/strict';
import test from 'node:test';
import { Packet } from 'dns2';
import {
  answersTo,
  buildQuestion,
  deliver,
  encodeName,
  type Query,
  questionKey,
  questionName,
  readQuery,
  refuse,
  rename,
  synthesize,
} from '../../../dns/message.ts';
import {
  A,
  AAAA,
  answer,
  ask,
  CNAME,
  MX,
  message,
  NAPTR,
  NS,
  name,
  opt,
  PTR,
  pointer,
  question,
  record,
  SOA,
  SRV,
  soa,
  TXT,
  uint16,
} from './wire.ts';

const FQDN = 'web.shop.svc.cluster.local';
const address = Buffer.of(10, 96, 0, 7);

function query(source: Buffer): Query {
  const found = readQuery(source);
  assert.ok(found);
  return found;
}

/** What a client that asked `client` gets of an answer to {@link FQDN}. */
function renamed(source: Buffer, client = ask('Web.shop', A), options = {}) {
  return rename(source, query(client), { asked: encodeName(FQDN) as Buffer, ...options });
}

function delivered(source: Buffer, client = ask('Web.shop', A)): Buffer {
  const found = renamed(source, client);
  assert.ok(found);
  return deliver(found, query(client), 0, 65_535);
}

test('what is no question is not answered', () => {
  for (const [what, bytes] of [
    ['nothing', Buffer.alloc(0)],
    ['less than a header', Buffer.alloc(11)],
    ['an answer', answer('web', A)],
    ['an answer with nothing in it', message({ flags: 0x8000 })],
  ] as const) {
    assert.equal(readQuery(bytes), undefined, what);
  }
});

test('a question that can not be passed on says what is wrong with it', () => {
  const long = Array.from({ length: 4 }, () => 'x'.repeat(63));
  for (const [what, bytes, rcode] of [
    ['sound', ask('web', A), 0],
    ['the root', ask('', NS), 0],
    ['a type nobody knows', ask('web', 65_280), 0],
    ['a label of 63', ask('x'.repeat(63), A), 0],
    ['a name of 255', ask([...long.slice(0, 3), 'x'.repeat(61)], A), 0],
    ['with OPT', ask('web', A, { additionals: [opt()] }), 0],
    ['a status question', ask('web', A, { flags: 0x1000 }), 4],
    ['an update', ask('web', SOA, { flags: 0x2800 }), 4],
    ['no question', message({}), 1],
    ['two questions', message({ questions: [question('web', A), question('web', AAAA)] }), 1],
    ['a question that is said to be there', message({ counts: [1, 0, 0, 0] }), 1],
    ['a name of 256', ask([...long.slice(0, 3), 'x'.repeat(62)], A), 1],
    ['a label of 64', ask('x'.repeat(64), A), 1],
    [
      'a pointer to itself',
      message({ counts: [1, 0, 0, 0], questions: [Buffer.concat([pointer(12), uint16(A), uint16(1)])] }),
      1,
    ],
    ['a name without an end', ask('web', A).subarray(0, 15), 1],
    ['without a class', ask('web', A).subarray(0, -1), 1],
    ['OPT that is not whole', ask('web', A, { additionals: [opt().subarray(0, 10)] }), 1],
    ['OPT twice', ask('web', A, { additionals: [opt(), opt()] }), 1],
    ['OPT with a name', ask('web', A, { additionals: [record(name('x'), 41, 0, Buffer.alloc(0), 512)] }), 1],
    ['OPT among the answers', ask('web', A, { answers: [opt()] }), 1],
    ['records that are not there', ask('web', A, { counts: [1, 0xffff, 0xffff, 0xffff] }), 1],
    ['for OPT', ask('web', 41), 1],
    ['EDNS version 1', ask('web', A, { additionals: [opt({ version: 1 })] }), 16],
    ['the whole zone', ask('web', 252), 5],
    ['class CH', message({ questions: [question('version.bind', TXT, 3)] }), 5],
    ['any class', message({ questions: [question('web', A, 255)] }), 5],
  ] as const) {
    assert.equal(readQuery(bytes)?.fault, rcode, what);
  }
});

test('a refusal holds id, opcode, question, and an OPT when there was one', () => {
  const bytes = refuse(query(ask('WeB', A, { id: 0xbeef, flags: 0x0110 })), 2);
  assert.deepEqual(bytes, message({ id: 0xbeef, flags: 0x8192, questions: [question('WeB', A)] }));
  const badVersion = refuse(
    query(ask('web', A, { additionals: [opt({ version: 9, dnssecOk: true, options: Buffer.of(0, 10, 0, 0) })] })),
    16,
  );
  assert.deepEqual(badVersion, ask('web', A, { flags: 0x8180, additionals: [opt({ rcode: 1, dnssecOk: true })] }));
  assert.deepEqual(refuse(query(message({ flags: 0x2900, counts: [1, 2, 3, 4] })), 4), message({ flags: 0xa984 }));
});

test('the size a client takes over UDP has bounds', () => {
  const size = (udpBytes: number) => query(ask('web', A, { additionals: [opt({ udpBytes })] })).udpBytes;
  assert.deepEqual([0, 511, 512, 1000, 1232, 1233, 65_535].map(size), [512, 512, 512, 1000, 1232, 1232, 1232]);
  assert.equal(query(ask('web', A)).udpBytes, 512);
});

test('names as text and back', () => {
  for (const [labels, text] of [
    [[], ''],
    [['WEB', 'Shop'], 'web.shop'],
    [['_http', '_tcp', 'web-0'], '_http._tcp.web-0'],
    [['*', 'a'], '*.a'],
    [['a.b', 'c'], 'a\\046b.c'],
    [['a\\b'], 'a\\092b'],
    [['\0\xff é'.replace('é', '\xe9')], '\\000\\255\\032\\233'],
  ] as const) {
    const source = query(ask([...labels], A));
    assert.equal(questionName(source), text);
    assert.deepEqual(encodeName(text), name(labels.map((label) => label.toLowerCase())), text);
  }
  assert.deepEqual(encodeName('web.'), name('web'));
  for (const text of ['a..b', '.a', 'x'.repeat(64), `${'x.'.repeat(127)}x`])
    assert.equal(encodeName(text), undefined, text);
});

test('equal questions have equal keys', () => {
  const key = (bytes: Buffer) => questionKey(query(bytes));
  const same = key(ask('web.shop', A));
  assert.equal(key(ask('WEB.sHoP', A, { id: 7, flags: 0 })), same);
  assert.equal(key(ask('web.shop', A, { additionals: [opt({ options: Buffer.of(0, 10, 0, 0) })] })), same);
  const others = [
    ask('web.shoq', A),
    ask(['web', 'sh', 'op'], A),
    ask('web.shop', AAAA),
    ask('web.shop', A + 256),
    ask('web.shop', A, { flags: 0x0110 }),
    ask('web.shop', A, { additionals: [opt({ dnssecOk: true })] }),
    // Not a letter in lower case, but a type that looks like one.
    ask('web.shop', 65),
    ask('web.shop', 97),
  ].map(key);
  assert.equal(new Set([same, ...others]).size, 9);
});

test("a question of ours has our OPT, not the client's", () => {
  const client = query(
    ask('web', A, {
      flags: 0x0010,
      additionals: [opt({ udpBytes: 4096, dnssecOk: true, options: Buffer.of(0, 8, 0, 0) })],
    }),
  );
  const asked = { id: 0x4242, name: encodeName(FQDN) as Buffer, type: AAAA };
  assert.deepEqual(
    buildQuestion(client, { ...asked, edns: true }),
    ask(FQDN, AAAA, { id: 0x4242, flags: 0x0130, additionals: [opt({ dnssecOk: true })] }),
  );
  assert.deepEqual(buildQuestion(client, { ...asked, edns: false }), ask(FQDN, AAAA, { id: 0x4242, flags: 0x0130 }));
});

test('an answer is one to its question only', () => {
  const asked = ask('web.shop', A);
  assert.ok(answersTo(answer('WEB.shop', A, { answers: [record(pointer(12), A, 5, address)] }), asked));
  for (const [what, bytes] of [
    ['another id', answer('web.shop', A, { id: 1 })],
    ['another name', answer('web.shoq', A)],
    ['another type', answer('web.shop', AAAA)],
    ['a shorter name', answer('web', A)],
    ['a question', asked],
    ['no question', message({ flags: 0x8180 })],
    ['nothing', Buffer.alloc(0)],
  ] as const) {
    assert.equal(answersTo(bytes, asked), false, what);
  }
});

test('the answer for the full name is the answer for the name that was asked, in its case', () => {
  const source = answer(FQDN, A, {
    answers: [
      record(name('WEB.shop.svc.cluster.LOCAL'), CNAME, 30, name('db.shop.svc.cluster.local')),
      record(name('db.shop.svc.cluster.local'), A, 20, address),
      record(pointer(12), A, 10, Buffer.of(10, 0, 0, 1)),
    ],
  });
  const bytes = delivered(source, ask('wEb.Shop', A, { id: 0xabcd }));
  assert.deepEqual(bytes.subarray(12, 26), question('wEb.Shop', A));
  const packet = Packet.parse(bytes);
  assert.equal(packet.header.id, 0xabcd);
  assert.deepEqual(
    packet.answers.map(({ name, ttl, domain, address }) => ({ name, ttl, to: domain ?? address })),
    [
      { name: 'wEb.Shop', ttl: 30, to: 'db.shop.svc.cluster.local' },
      { name: 'db.shop.svc.cluster.local', ttl: 20, to: '10.96.0.7' },
      { name: 'wEb.Shop', ttl: 10, to: '10.0.0.1' },
    ],
  );
});

test('names in records are written out anew, wherever they pointed', () => {
  const dots = name('target.shop.svc.cluster.local');
  const inQuestion = pointer(12 + 4); // shop.svc.cluster.local
  const tail = (label: string) =>
    Buffer.concat([Buffer.from(`${String.fromCharCode(label.length)}${label}`), inQuestion]);
  const naptr = Buffer.concat([uint16(1), uint16(2), Buffer.from('\x01S\x07SIP+D2T\x00', 'latin1')]);
  for (const [what, type, before, compresses] of [
    ['NS', NS, Buffer.alloc(0), true],
    ['PTR', PTR, Buffer.alloc(0), true],
    ['MX', MX, uint16(10), true],
    ['SRV', SRV, Buffer.concat([uint16(0), uint16(100), uint16(80)]), false],
    ['NAPTR', NAPTR, naptr, false],
    ['DNAME', 39, Buffer.alloc(0), false],
    ['SIG', 24, Buffer.alloc(18, 9), false],
  ] as const) {
    const after = what === 'SIG' ? Buffer.from('signature') : Buffer.alloc(0);
    const source = answer(FQDN, type, {
      answers: [record(pointer(12), type, 5, Buffer.concat([before, tail('target'), after]))],
    });
    const bytes = delivered(source, ask('web', type));
    const data = bytes.subarray(12 + question('web', type).length + 12);
    // The client's question has no `shop.svc.cluster.local` to point at, so that all is written out.
    assert.deepEqual(data, Buffer.concat([before, dots, after]), what);
    const twice = answer(FQDN, type, {
      answers: [0, 1].map(() => record(pointer(12), type, 5, Buffer.concat([before, tail('target'), after]))),
    });
    const second = delivered(twice, ask('web', type)).subarray(
      12 + question('web', type).length + 2 * 12 + data.length,
    );
    const written = compresses ? pointer(12 + question('web', type).length + 12 + before.length) : dots;
    assert.deepEqual(second, Buffer.concat([before, written, after]), what);
  }
});

test('types with unknown contents are passed on byte for byte', () => {
  // What would be pointers in a type with names, and what is none in UTF-8.
  const data = Buffer.from('c00cc00cfffe80c0ff00', 'hex');
  for (const type of [TXT, AAAA, 46, 65, 257, 65_280]) {
    const bytes = delivered(answer(FQDN, type, { answers: [record(pointer(12), type, 5, data)] }), ask('web', type));
    assert.deepEqual(
      bytes,
      ask('web', type, { flags: 0x8180, answers: [record(pointer(12), type, 5, data)] }),
      `type ${type}`,
    );
  }
});

test("the server's OPT goes, and what pointed behind it still points right", () => {
  const start = 12 + question(FQDN, SRV).length;
  const srv = record(pointer(12), SRV, 5, Buffer.concat([uint16(0), uint16(0), uint16(80), name('x.y.z')]));
  const between = opt({ options: Buffer.from('000a000801020304050607', 'hex') });
  const host = record(name('host.example'), A, 5, address);
  const again = record(pointer(start + srv.length + between.length), AAAA, 5, Buffer.alloc(16, 1));
  const source = answer(FQDN, SRV, { answers: [srv], additionals: [between, host, again] });
  const packet = Packet.parse(delivered(source, ask('web', SRV)));
  assert.deepEqual(
    packet.additionals.map(({ name, type }) => ({ name, type })),
    [
      { name: 'host.example', type: A },
      { name: 'host.example', type: AAAA },
    ],
  );
  const bare = renamed(source, ask('web', SRV), { bare: true });
  assert.deepEqual(bare?.message.subarray(10, 12), uint16(0));
});

test('a malformed answer is none', () => {
  const fine = record(pointer(12), A, 5, address);
  const start = 12 + question(FQDN, A).length;
  const huge = record(name('a'.repeat(60)), 65_280, 5, Buffer.alloc(32_700));
  for (const [what, source] of [
    ['less than a header', Buffer.alloc(5)],
    ['nothing behind the header', message({ flags: 0x8180, counts: [1, 0, 0, 0] })],
    ['no question', message({ flags: 0x8180, answers: [fine] })],
    ['records that are not there', answer(FQDN, A, { answers: [fine], counts: [1, 2, 0, 0] })],
    ['counts beyond all', answer(FQDN, A, { answers: [fine], counts: [1, 0xffff, 0xffff, 0xffff] })],
    ['data that is cut', answer(FQDN, A, { answers: [fine] }).subarray(0, -1)],
    ['an owner that points at itself', answer(FQDN, A, { answers: [record(pointer(start), A, 5, address)] })],
    [
      'an owner that points ahead',
      answer(FQDN, A, { answers: [record(pointer(start + 12), A, 5, Buffer.of(1, 0x61, 0, 0))] }),
    ],
    ['an owner that points into the header', answer(FQDN, A, { answers: [record(pointer(4), A, 5, address)] })],
    [
      'a label, then a loop',
      answer(FQDN, A, { answers: [record(Buffer.concat([Buffer.of(1, 0x61), pointer(start)]), A, 5, address)] }),
    ],
    ['a label of a type there is none of', answer(FQDN, A, { answers: [record(Buffer.of(0x41, 0), A, 5, address)] })],
    ['a target that is cut', answer(FQDN, CNAME, { answers: [record(pointer(12), CNAME, 5, Buffer.of(3, 0x61))] })],
    [
      'a target with half a pointer',
      answer(FQDN, CNAME, { answers: [record(pointer(12), CNAME, 5, Buffer.of(0xc0))] }),
    ],
    ['an SRV of no port', answer(FQDN, SRV, { answers: [record(pointer(12), SRV, 5, Buffer.of(0, 0, 0))] })],
    [
      'a NAPTR whose strings run out',
      answer(FQDN, NAPTR, { answers: [record(pointer(12), NAPTR, 5, Buffer.of(0, 0, 0, 0, 200, 1))] }),
    ],
    ["a code of the server's OPT", answer(FQDN, A, { answers: [fine], additionals: [opt({ rcode: 1 })] })],
    ['records of more than a message', answer(FQDN, 65_280, { answers: [huge, huge, huge] })],
  ] as const) {
    assert.equal(renamed(source), undefined, what);
  }
});

test('an answer that would be too long when written out is none', () => {
  // 255 bytes each, from two that point.
  const long = Array.from({ length: 3 }, () => 'x'.repeat(63)).join('.');
  const first = record(name(`${long}.${'y'.repeat(61)}`), SRV, 5, Buffer.concat([Buffer.alloc(6), pointer(12)]));
  const start = 12 + question(FQDN, SRV).length;
  const srv = record(pointer(12), SRV, 5, Buffer.concat([Buffer.alloc(6), pointer(start)]));
  const source = (count: number) =>
    answer(FQDN, SRV, { answers: [first, ...Array.from({ length: count }, () => srv)] });
  assert.ok(renamed(source(200), ask('web', SRV)));
  assert.equal(renamed(source(300), ask('web', SRV)), undefined);
});

test('names that point to names that point are followed only so far', () => {
  const start = 12 + question(FQDN, 65_280).length + 12;
  const chain = (jumps: number) => {
    const data = Buffer.concat([
      name('a'),
      ...Array.from({ length: jumps - 1 }, (_, i) => pointer(i === 0 ? start : start + 3 + 2 * (i - 1))),
    ]);
    const last = jumps === 1 ? start : start + 3 + 2 * (jumps - 2);
    return answer(FQDN, 65_280, {
      answers: [record(pointer(12), 65_280, 5, data), record(pointer(last), A, 5, address)],
    });
  };
  assert.ok(renamed(chain(127)));
  assert.equal(renamed(chain(128)), undefined);
});

test('how long an answer may be kept', () => {
  const a = (ttlS: number) => record(pointer(12), A, ttlS, address);
  const alias = record(pointer(12), CNAME, 7, name('elsewhere.example'));
  const zone = name('cluster.local');
  for (const [what, parts, ttlS] of [
    ['the least of all', { answers: [a(30), a(20)], authorities: [record(zone, NS, 25, name('ns'))] }, 20],
    ["the additional section's too", { answers: [a(30)], additionals: [record(name('x'), A, 3, address)] }, 3],
    ['0 when it says 0', { answers: [a(0)] }, 0],
    ['0 beyond 31 bits', { answers: [a(0x80000000)] }, 0],
    ['31 bits', { answers: [a(0x7fffffff)] }, 0x7fffffff],
    ["NXDOMAIN: the SOA's minimum", { flags: 0x8183, authorities: [soa(zone, 30, 5)] }, 5],
    ["NXDOMAIN: the SOA's TTL", { flags: 0x8183, authorities: [soa(zone, 4, 50)] }, 4],
    ['NXDOMAIN without SOA', { flags: 0x8183 }, 0],
    ['no data: as NXDOMAIN', { authorities: [soa(zone, 30, 6)] }, 6],
    ['no data without SOA', {}, 0],
    ['an alias of what has none', { answers: [alias], authorities: [soa(zone, 30, 9)] }, 7],
    ['an alias without SOA', { answers: [alias] }, 0],
    ['SERVFAIL', { flags: 0x8182, authorities: [soa(zone, 30, 30)] }, 0],
    ['REFUSED', { flags: 0x8185, answers: [a(30)] }, 0],
    ['truncated', { flags: 0x8380, answers: [a(30)] }, 0],
  ] as const) {
    assert.equal(renamed(answer(FQDN, A, parts as object))?.ttlS, ttlS, what);
  }
  const capped = renamed(answer(FQDN, A, { answers: [a(300), a(3)] }), ask('web', A), { maxTtlS: 30 });
  assert.deepEqual(
    capped?.message,
    ask('web', A, { id: 0, flags: 0, answers: [record(pointer(12), A, 30, address), a(3)] }),
  );
});

test('what was kept is delivered with its age taken off, to a client of its own id, case and OPT', () => {
  const kept = renamed(answer(FQDN, A, { flags: 0x85a0, answers: [record(pointer(12), A, 30, address)] }));
  assert.ok(kept);
  const client = ask('WEB.SHOP', A, { id: 0x7777, flags: 0x0010, additionals: [opt({ dnssecOk: true })] });
  assert.deepEqual(
    deliver(kept, query(client), 12, 512),
    // Authoritative it was only when it came.
    ask('WEB.SHOP', A, {
      id: 0x7777,
      flags: 0x80b0,
      answers: [record(pointer(12), A, 18, address)],
      additionals: [opt({ dnssecOk: true })],
    }),
  );
  const ttl = (ageS: number) => deliver(kept, query(client), ageS, 512).readUInt32BE(12 + 14 + 6);
  assert.deepEqual([0, 29, 30, 31].map(ttl), [30, 1, 0, 0]);
  const flags = (client: Buffer, ageS = 0) => deliver(kept, query(client), ageS, 512).readUInt16BE(2);
  assert.equal(flags(ask('web.shop', A)), 0x8580, 'AD is for those who ask for it');
  assert.equal(flags(ask('web.shop', A, { flags: 0x0020 })), 0x84a0);
});

test('an answer longer than a client takes is cut to the question, with TC', () => {
  const client = ask('web', A, { additionals: [opt({ udpBytes: 512 })] });
  const answers = Array.from({ length: 30 }, (_, i) => record(pointer(12), A, 5, Buffer.of(10, 0, 0, i)));
  const kept = renamed(answer(FQDN, A, { answers }), client);
  assert.ok(kept);
  const whole = deliver(kept, query(client), 0, 65_535);
  assert.equal(whole.length, kept.message.length + 11);
  assert.deepEqual(deliver(kept, query(client), 0, whole.length), whole);
  const cut = ask('web', A, { flags: 0x8380, additionals: [opt()] });
  assert.deepEqual(deliver(kept, query(client), 0, whole.length - 1), cut);
  assert.deepEqual(deliver(kept, query(ask('web', A)), 0, 300), ask('web', A, { flags: 0x8380 }));
});

test('an answer of our own', () => {
  const client = ask('LocalHost', A);
  const own = synthesize(query(client), [{ type: A, ttlS: 9, data: Buffer.of(127, 0, 0, 1) }]);
  assert.equal(own.ttlS, 9);
  const packet = Packet.parse(deliver(own, query(client), 2, 512));
  assert.deepEqual(
    packet.answers.map(({ name, ttl, address }) => [name, ttl, address]),
    [['LocalHost', 7, '127.0.0.1']],
  );
  assert.equal(synthesize(query(client), [], 3).ttlS, 0);
});
