import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { join } from 'node:path';
import test from 'node:test';
import { promisify } from 'node:util';
import { AnswerCache, type Kept } from '../../../dns/cache.ts';
import { ClockMap } from '../../../dns/clock.ts';
import { FakeAddresses } from '../../../dns/fake.ts';
import { deliver, type Query, readQuery, synthesize } from '../../../dns/message.ts';
import { Responder } from '../../../dns/responder.ts';
import { reversedAddress } from '../../../dns/reverse.ts';
import { A, ask } from './wire.ts';

/** What keeps something, and how much at most. */

function kept({ ttlS = 60, bytes = 100, sinceMs = 0 } = {}): Kept {
  return { message: Buffer.alloc(bytes), ttlOffsets: new Uint16Array(0), ttlS, road: 'host', sinceMs };
}

async function keep(cache: AnswerCache, key: string, entry: Kept): Promise<void> {
  await cache.find(key, async () => entry);
}

test('the map gives up what was not used since it last looked', () => {
  const map = new ClockMap<number>();
  assert.equal(map.evict(), undefined);
  for (const [value, key] of ['a', 'b', 'c', 'd'].entries()) map.set(key, value);
  map.get('a');
  map.get('c');
  assert.deepEqual(map.evict(), { key: 'b', value: 1 });
  assert.deepEqual(map.evict(), { key: 'd', value: 3 });
  map.set('e', 4);
  map.delete('a');
  map.set('c', 22);
  assert.deepEqual(map.evict(), { key: 'c', value: 22 });
  assert.deepEqual(map.evict(), { key: 'e', value: 4 });
  assert.equal(map.size, 0);
});

test('an entry that is used is found as quickly after a million times', () => {
  const map = new ClockMap<number>();
  for (let i = 0; i < 10_000; i++) map.set(`k${i}`, i);
  const once = (count: number) => {
    const startMs = performance.now();
    for (let i = 0; i < count; i++) map.get('k5000');
    return performance.now() - startMs;
  };
  const time = (count: number) => Math.min(...[count, count, count].map(once));
  time(10_000);
  const early = time(100_000);
  time(1_000_000);
  // Taken out and put back each time, it took 100 times as long.
  assert.ok(time(100_000) < 20 * early + 50);
});

test('an answer is kept for its TTL, a day at most, and not at all for 0', async () => {
  const cache = new AnswerCache();
  await keep(cache, 'short', kept({ ttlS: 5, sinceMs: 1_000 }));
  await keep(cache, 'long', kept({ ttlS: 0x7fffffff }));
  await keep(cache, 'none', kept({ ttlS: 0 }));
  assert.ok(cache.get('short', 5_999));
  assert.equal(cache.get('short', 6_000), undefined);
  assert.equal(cache.get('none', 0), undefined);
  assert.ok(cache.get('long', 86_399_999));
  assert.equal(cache.get('long', 86_400_000), undefined);
  assert.deepEqual([cache.entries, cache.bytes], [0, 0]);
});

test('entries and bytes have bounds, and what is used stays', async () => {
  const byCount = new AnswerCache({ maxEntries: 10 });
  await keep(byCount, 'hot', kept());
  for (let i = 0; i < 1_000; i++) {
    await keep(byCount, `k${i}`, kept());
    assert.ok(byCount.get('hot', 0), `after ${i}`);
    assert.ok(byCount.entries <= 10);
  }
  assert.ok(byCount.get('k999', 0));

  const byBytes = new AnswerCache({ maxBytes: 100_000 });
  for (let i = 0; i < 100; i++) {
    await keep(byBytes, `k${i % 50}`, kept({ bytes: 9_000 }));
    assert.ok(byBytes.bytes <= 100_000);
  }
  assert.ok(byBytes.entries > 5);
  await keep(byBytes, 'too large for all', kept({ bytes: 200_000 }));
  assert.deepEqual([byBytes.entries, byBytes.bytes], [0, 0]);
});

test('one asks, and those who come meanwhile wait for it; its failure is theirs and is not kept', async () => {
  const cache = new AnswerCache();
  let asked = 0;
  const fail = async () => {
    asked += 1;
    throw Object.assign(new Error('no'), { code: 'ETIMEOUT' });
  };
  const results = await Promise.allSettled([cache.find('a', fail), cache.find('a', fail)]);
  assert.deepEqual(
    results.map(({ status }) => status),
    ['rejected', 'rejected'],
  );
  assert.equal(asked, 1);
  assert.equal(cache.underWay, 0);
  await assert.rejects(cache.find('a', fail), { code: 'ETIMEOUT' });
  assert.equal(asked, 2);
});

test('questions under way have a bound', async () => {
  const cache = new AnswerCache({ maxUnderWay: 2 });
  const { promise, resolve } = Promise.withResolvers<Kept>();
  const under = [cache.find('a', () => promise), cache.find('b', () => promise)];
  await assert.rejects(
    cache.find('c', () => promise),
    { code: 'EBUSY' },
  );
  under.push(cache.find('a', () => promise));
  resolve(kept());
  assert.equal((await Promise.all(under)).length, 3);
  assert.ok(await cache.find('c', () => promise));
});

test('many more names than there is room for leave the cache within its bounds', async () => {
  const answerAll = async (bytes: Buffer) => {
    const query = readQuery(bytes) as Query;
    return deliver(synthesize(query, [{ type: A, ttlS: 3_600, data: Buffer.of(10, 0, 0, 1) }]), query, 0, 65_535);
  };
  const responder = new Responder({
    mode: 'split',
    cache: { maxEntries: 500 },
    search: () => ['shop.svc.cluster.local', 'svc.cluster.local', 'cluster.local'],
    clusterUp: () => true,
    askCluster: answerAll,
    askHost: answerAll,
  });
  const send = (qname: string) => new Promise((resolve) => responder.respond(ask(qname, A), 'udp', resolve));
  // Under one suffix, and under a last label of its own each, which the policy remembers too.
  for (let i = 0; i < 600; i++) await send(`x.l${i}`);
  for (let i = 0; i < 600; i++) await send(`n${i}.svc.cluster.local`);
  const cache = new AnswerCache();
  for (let i = 0; i < 11_000; i++) await keep(cache, `n${i}`, kept());
  assert.equal(responder.cache.entries, 500);
  assert.equal(cache.entries, 10_000);
  for (const { bytes, underWay } of [responder.cache, cache]) {
    assert.ok(bytes <= 8 * 1024 * 1024, `${bytes} bytes`);
    assert.equal(underWay, 0);
  }
});

test('a fake address stands for one name, whatever its case', () => {
  const fake = new FakeAddresses();
  assert.equal(fake.range, '198.18.0.0/15');
  assert.equal(fake.addressFor('web.shop.svc.cluster.local'), '198.18.0.1');
  assert.equal(fake.addressFor('db.shop.svc.cluster.local'), '198.18.0.2');
  assert.equal(fake.addressFor('WEB.shop.svc.cluster.local'), '198.18.0.1');
  assert.equal(fake.nameOf('198.18.0.2'), 'db.shop.svc.cluster.local');
  assert.equal(fake.nameOf('198.18.0.3'), undefined);
  assert.deepEqual(
    ['198.18.0.0', '198.19.255.255', '198.20.0.0', '198.17.255.255', '::1', 'x'].map((address) =>
      fake.contains(address),
    ),
    [true, true, false, false, false, false],
  );
});

test('a range that is full gives the address of a name not used lately to the next', () => {
  const fake = new FakeAddresses('10.9.8.5/29');
  assert.equal(fake.range, '10.9.8.0/29');
  const addresses = [1, 2, 3, 4, 5, 6].map((i) => fake.addressFor(`n${i}`));
  assert.deepEqual(addresses, ['10.9.8.1', '10.9.8.2', '10.9.8.3', '10.9.8.4', '10.9.8.5', '10.9.8.6']);
  fake.nameOf('10.9.8.1');
  fake.addressFor('n2');
  assert.equal(fake.addressFor('n7'), '10.9.8.3');
  assert.equal(fake.nameOf('10.9.8.3'), 'n7');
  for (let i = 0; i < 1_000; i++) {
    const address = fake.addressFor(`m${i}`);
    assert.equal(fake.nameOf(address), `m${i}`);
    assert.match(address, /^10\.9\.8\.[1-6]$/);
  }
});

test('what is no range for fake addresses', () => {
  for (const range of [
    '',
    '198.18.0.0',
    '198.18.0.0/',
    '198.18.0.0/7',
    '198.18.0.0/31',
    '198.18.0/15',
    'fd00::/64',
    '198.18.0.0/15x',
  ]) {
    assert.throws(() => new FakeAddresses(range), { code: 'EINVAL' }, range);
  }
});

test('reverse names', () => {
  for (const [name, address] of [
    ['7.0.96.10.in-addr.arpa', '10.96.0.7'],
    ['256.0.96.10.in-addr.arpa', undefined],
    ['0.96.10.in-addr.arpa', undefined],
    ['1.7.0.96.10.in-addr.arpa', undefined],
    [`1.${'0.'.repeat(29)}d.f.ip6.arpa`, 'fd00::1'],
    [`1.${'0.'.repeat(28)}d.f.ip6.arpa`, undefined],
    ['web', undefined],
  ] as const) {
    assert.equal(reversedAddress(name), address, name);
  }
});

test('hostile messages do no harm', async () => {
  const program = join(import.meta.dirname, '../../fuzz/dns.ts');
  const { stdout } = await promisify(execFile)(process.execPath, [program, '2000', '7']);
  const { runs, answered, dropped, renamed } = JSON.parse(stdout);
  assert.equal(runs, 2_000);
  assert.ok(answered > 500 && dropped > 100 && renamed > 100, stdout);
});
