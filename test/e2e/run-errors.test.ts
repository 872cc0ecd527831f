import assert from 'node:assert/strict';
import path from 'node:path';
import { after, before, describe, test } from 'node:test';
import { installPackages } from '../cluster/packages.ts';
import { Laptop } from './laptop.ts';
import { endAll, type Lpk } from './lpk.ts';
import { OUTSIDE, Person } from './programs/person.ts';
import { eventually, Shop, service, workload } from './shop.ts';

/** What a captured program hears when something fails: the destination, the link, lpk itself. */

/** Nobody has it, and nobody answers for it. */
const DEAD = '10.96.255.254';
/** So long lpk holds connects on a lost link: longer than two lpks may be apart in noticing that it is lost. */
const HOLD_S = 20;

let shop: Shop;
let laptop: Laptop;
let person: Person;

before(async () => {
  await installPackages({ curl: '/usr/bin/curl', python3: '/usr/bin/python3' });
  shop = await Shop.open('run-errors');
  laptop = await Laptop.make();
  const ports: [number, number][] = [
    [80, 8080],
    [81, 9999],
  ];
  [person] = await Promise.all([
    Person.on(laptop, shop),
    shop.deploy(workload('Deployment', 'web'), service('web', ports)),
  ]);
});

after(async () => {
  endAll();
  person?.leave();
  await laptop?.remove();
  await shop?.close();
});

function program(name: string, ...args: string[]): string[] {
  return ['/usr/bin/python3', path.join(person.lpk, 'test/e2e/programs', name), ...args];
}

async function nothingIsLeft(): Promise<void> {
  await eventually('nothing is left running', async () => person.processes().length === 0);
}

function runOwn(...command: string[]): Lpk {
  return person.start('run', '-n', shop.namespace, '--hold', `${HOLD_S}`, '--', ...command);
}

describe('a destination fails', () => {
  let proxy: Lpk;

  before(async () => {
    proxy = person.start('proxy', 'up', '-n', shop.namespace);
    await proxy.event('ready');
  });

  after(async () => {
    proxy.signal('SIGINT');
    await proxy.exit();
  });

  const podAddress = async () => (await shop.pods('deployment/web'))[0]?.status.podIP as string;
  /** The destination's own answer: a dial that gets none ends after 15 s. */
  const REFUSED_SOON = /^ECONNREFUSED after [0-4]\./;
  /** The reset may come before the program asks how its connect went. */
  const RESET = /^EINPROGRESS (connected )?ECONNRESET/;
  const web = async () => `web.${shop.namespace}`;
  const table: [string, () => Promise<string>, number, { blocking: RegExp; waiting: RegExp }][] = [
    ['none', web, 80, { blocking: /^connected answered/, waiting: /^EINPROGRESS connected answered/ }],
    ['a closed port of a pod', podAddress, 9999, { blocking: REFUSED_SOON, waiting: RESET }],
    ['a closed port of a Service’s pod', web, 81, { blocking: REFUSED_SOON, waiting: RESET }],
    ['a port that a Service has not', web, 82, { blocking: REFUSED_SOON, waiting: RESET }],
    [
      'no such name in the cluster',
      async () => `nosuch.${shop.namespace}.svc.cluster.local`,
      80,
      { blocking: /^no address: EAI_NONAME/, waiting: /^no address: EAI_NONAME/ },
    ],
    [
      'no such name',
      async () => 'nosuch.example',
      80,
      { blocking: /^no address: EAI_NONAME/, waiting: /^no address: EAI_NONAME/ },
    ],
    [
      'an address outside, to which there is no route',
      async () => OUTSIDE.name,
      80,
      { blocking: /^ENETUNREACH after [0-4]\./, waiting: /^ENETUNREACH after [0-4]\./ },
    ],
  ];
  // The blocking ones last: they would be remembered.
  for (const how of ['waiting', 'blocking'] as const) {
    for (const [name, host, port, expected] of table) {
      test(`${how}: ${name}`, async () => {
        const got = await person.lpkRun(program('connects.py', how, await host(), `${port}`));
        assert.match(got.stdout, expected[how], `${JSON.stringify(got)}; ${proxy}`);
      });
    }
  }

  test('blocking: an address that nobody answers for', async () => {
    const got = await person.lpkRun(program('connects.py', 'blocking', DEAD, '80'));
    assert.match(got.stdout, /^(ETIMEDOUT|EHOSTUNREACH) after/, `${JSON.stringify(got)}; ${proxy}`);
  });

  test('one that does not block hears the truth when it tries again', async () => {
    const times = 50;
    const lpk = person.start('run', '--', ...program('connects.py', 'waiting', await podAddress(), '9999', `${times}`));
    const line = (at: number) => lpk.until(`line ${at}`, () => lpk.lines[at]);
    assert.match(await line(0), RESET, `${lpk}`);
    const refused = /^(EINPROGRESS )?ECONNREFUSED/;
    // The truth has 25 ms to come, which is not always enough on a busy machine; then it hears what it heard at first.
    for (let at = 1; at < times && !refused.test(lpk.lines.at(-1) as string); at++) {
      lpk.type('\n');
      assert.match(await line(at), new RegExp(`${refused.source}|${RESET.source}`), `${lpk}`);
    }
    assert.match(lpk.lines.at(-1) as string, refused, `${lpk}`);
    lpk.signal('SIGTERM');
    await lpk.exit();
  });
});

describe('the link, and lpk itself', () => {
  test('the link is cut: connects wait while it is held, then fail at once, and work when it is back', async () => {
    const host = `web.${shop.namespace}`;
    const lpks = ['blocking', 'waiting'].map((how) => runOwn(...program('connects.py', how, host, '80', '99')));
    const next = async (patterns: [blocking: RegExp, waiting: RegExp]) => {
      await Promise.all(
        lpks.map(async (lpk, i) => {
          const at = lpk.lines.length;
          lpk.type('\n');
          assert.match(await lpk.until(`line ${at}`, () => lpk.lines[at]), patterns[i] as RegExp, `${lpk}`);
        }),
      );
    };
    const works: [RegExp, RegExp] = [/^connected answered/, /^(EINPROGRESS )?connected answered/];
    await Promise.all(lpks.map((lpk) => lpk.line(/answered/)));
    await laptop.cut();
    await Promise.all(lpks.map((lpk) => lpk.event('link-down')));
    await next([/^ENETUNREACH after [12]?\d\./, /^EINPROGRESS (connected )?(ENETUNREACH|ECONNRESET|closed)/]);
    await next([/^ENETUNREACH after [01]\./, /^ENETUNREACH after [01]\./]);
    await laptop.mend();
    await Promise.all(lpks.map((lpk) => lpk.event('link-up')));
    await next(works);
    for (const lpk of lpks) lpk.signal('SIGTERM');
    await Promise.all(lpks.map((lpk) => lpk.exit()));
    await nothingIsLeft();
  });

  test('kill -9 of lpk: the program hears errors for all it does, and ends by itself', async () => {
    const lpk = runOwn(...program('survivor.py', `web.${shop.namespace}`, DEAD));
    await lpk.line(/^ready/);
    lpk.signal('SIGKILL');
    const begun = performance.now();
    await lpk.line(/^over/);
    assert.ok(performance.now() - begun < 10_000, `at once; ${lpk}`);
    const said = Object.fromEntries(lpk.lines.filter((line) => line.includes(': ')).map((line) => line.split(': ')));
    assert.match(said.open as string, /^(closed|ECONNRESET)$/, `${lpk}`);
    assert.match(said.name as string, /^EAI_/, `${lpk}`);
    const { 'under way': waiting, blocking, 'not blocking': nonBlocking } = said;
    assert.deepEqual([waiting, blocking, nonBlocking], ['ENOSYS', 'ENOSYS', 'ENOSYS'], `${lpk}`);
    await lpk.exit();
    await nothingIsLeft();
  });
});
