import assert from 'node:assert/strict';
import { writeFileSync } from 'node:fs';
import path from 'node:path';
import { after, before, test } from 'node:test';
import type { Finding } from '../../cli/doctor.ts';
import { Laptop } from './laptop.ts';
import { endAll } from './lpk.ts';
import { Person } from './programs/person.ts';
import { Shop } from './shop.ts';

/** `lpk doctor`, for an ordinary user on a computer where all is well but TUN, and for one whose cluster is not there. */

let shop: Shop;
let laptop: Laptop;
let person: Person;

before(async () => {
  shop = await Shop.open('run-doctor');
  laptop = await Laptop.make();
  person = await Person.on(laptop, shop);
});

after(async () => {
  endAll();
  person?.leave();
  await laptop?.remove();
  await shop?.close();
});

test('for people: a line for each thing, and what to do where there is something to do', async () => {
  const { code, stdout } = await person.run(person.words('doctor', '-n', shop.namespace));
  const lines = stdout.trimEnd().split('\n');
  const expected = [
    /^✔ Node\.js: \d+\.\d+\.\d+$/,
    /^✔ system: linux \d\S* on (x64|arm64)$/,
    /^✔ capture without root \(seccomp\): any program, static ones too$/,
    /^[✔!] user namespaces: /,
    /^! TUN device \(--tun\): /,
    /^ {2}→ \S/,
    /^✔ resolver: resolv\.conf, names outside the cluster by 198\.19\.2\.2$/,
    /^✔ cluster: \S+ at https:\/\/\S+, Kubernetes v1\.\d+\.\d+, user \S+$/,
    /^✔ way to a pod: proxy, then port-forward$/,
    /^✔ rights for lpk proxy, lpk run: all there$/,
    /^✔ rights for lpk connect to a Deployment: all there$/,
    /^✔ rights for the restorer of lpk connect: all there$/,
  ];
  const found = expected.map((pattern) => lines.findIndex((line) => pattern.test(line)));
  assert.deepEqual(
    found,
    found.toSorted((a, b) => a - b),
    `in this order: ${stdout}`,
  );
  assert.ok(!found.includes(-1), `all of them: ${found}: ${stdout}`);
  assert.equal(code, 0);
});

test('for programs: one object a line', async () => {
  const { code, findings } = await doctorJson();
  assert.equal(code, 0);
  const names = findings.map(({ name, ok }) => `${ok ? '' : 'not '}${name}`);
  const userNamespaces = findings.find(({ name }) => name === 'user namespaces') as Finding;
  assert.deepEqual(names, [
    ...['Node.js', 'system', 'capture without root (seccomp)', `${userNamespaces.ok ? '' : 'not '}user namespaces`],
    ...['not TUN device (--tun)', 'resolver', 'cluster', 'way to a pod'],
    ...['rights for lpk proxy, lpk run', 'rights for lpk connect to a Deployment'],
    'rights for the restorer of lpk connect',
  ]);
});

test('without a cluster that answers: exit code 1, and what to do', async () => {
  const kubeconfig = path.join(person.folder, 'home/broken');
  const gone = {
    clusters: [{ name: 'c', cluster: { server: 'https://198.19.0.2:1' } }],
    users: [{ name: 'u', user: {} }],
  };
  const contexts = [{ name: 'gone', context: { cluster: 'c', user: 'u' } }];
  writeFileSync(
    kubeconfig,
    JSON.stringify({ apiVersion: 'v1', kind: 'Config', ...gone, contexts, 'current-context': 'gone' }),
  );
  for (const [file, said] of [
    [kubeconfig, /198\.19\.0\.2:1/],
    [`${kubeconfig}-no-such-file`, /no-such-file/],
  ] as const) {
    const { code, findings } = await doctorJson('--kubeconfig', file);
    const { ok, needed, text, remedy } = findings.at(-1) as Finding;
    assert.deepEqual([code, ok, needed], [1, false, true]);
    assert.match(text, said);
    assert.ok(remedy, 'with a remedy');
  }
});

async function doctorJson(...options: string[]): Promise<{ code: number | string; findings: Finding[] }> {
  const { code, stdout } = await person.run(person.words('doctor', '-n', shop.namespace, '-o', 'json', ...options));
  return {
    code,
    findings: stdout
      .trimEnd()
      .split('\n')
      .map((line) => JSON.parse(line) as Finding),
  };
}
