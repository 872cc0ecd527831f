import assert from 'node:assert/strict';
import test from 'node:test';
import { parsePortMapping, readConnectOptions } from '../../../cli/connect-options.ts';

test('what is not given has its default', () => {
  assert.deepEqual(readConnectOptions({ target: 'web' }, undefined), {
    target: 'web',
    namespace: undefined,
    context: undefined,
    kubeconfig: undefined,
    ports: [],
    container: undefined,
    one: false,
    transport: 'auto',
    readiness: 'listening',
    agentImage: 'node:24-alpine',
    proxyPort: 0,
    wait: true,
    freePorts: false,
    capture: 'auto',
    environment: { include: [], exclude: [], set: {} },
    routes: [],
    noRoutes: [],
    dnsInclude: [],
    volumes: { limitBytes: 104_857_600, writeBack: false },
    holdMs: 60_000,
    restoreAfterMs: 45_000,
    restorer: true,
    selfTest: true,
    whenHeld: 'refuse',
    command: undefined,
  });
});

test('what is given is read', () => {
  const words = {
    target: 'deployment/web',
    namespace: 'shop',
    context: 'dev',
    kubeconfig: '/k',
    port: ['3000:80', '9229'],
    container: 'app',
    replicas: 'one',
    transport: 'port-forward',
    readiness: 'connected',
    'agent-image': 'registry.example/node:24',
    'proxy-port': '1080',
    'no-wait': true,
    hold: '5',
    'volume-limit': '5',
    output: 'json',
  };
  assert.deepEqual(readConnectOptions(words, ['npm', 'start', '--', '-p', '1']), {
    target: 'deployment/web',
    namespace: 'shop',
    context: 'dev',
    kubeconfig: '/k',
    ports: [
      { laptopPort: 3000, containerPort: 80 },
      { laptopPort: 9229, containerPort: undefined },
    ],
    container: 'app',
    one: true,
    transport: 'port-forward',
    readiness: 'connected',
    agentImage: 'registry.example/node:24',
    proxyPort: 1080,
    wait: false,
    freePorts: false,
    capture: 'auto',
    environment: { include: [], exclude: [], set: {} },
    routes: [],
    noRoutes: [],
    dnsInclude: [],
    volumes: { limitBytes: 5_242_880, writeBack: false },
    holdMs: 5000,
    restoreAfterMs: 45_000,
    restorer: true,
    selfTest: true,
    whenHeld: 'refuse',
    command: { program: 'npm', args: ['start', '--', '-p', '1'] },
  });
});

test('volumes are read-only copies or none', () => {
  assert.equal(readConnectOptions({ target: 'web', volumes: 'none' }, undefined).volumes, undefined);
  for (const [name, value] of [
    ['volumes', 'wo'],
    ['volume-limit', '0'],
    ['volume-limit', '8001'],
    ['volume-limit', '1.5'],
  ] as const) {
    assert.throws(() => readConnectOptions({ target: 'web', [name]: value }, undefined), { code: 'usage' });
  }
});

test('a port mapping is LOCAL[:CONTAINER]', () => {
  assert.deepEqual(parsePortMapping('3000:80'), { laptopPort: 3000, containerPort: 80 });
  assert.deepEqual(parsePortMapping('65535:1'), { laptopPort: 65535, containerPort: 1 });
  assert.deepEqual(parsePortMapping('8080'), { laptopPort: 8080, containerPort: undefined });
});

test('a port mapping that is none says what is wrong with it', () => {
  const table: [string, RegExp][] = [
    ['', /^-p : a port is missing; expected LOCAL\[:CONTAINER\], like 3000:80$/],
    [':80', /^-p :80: a port is missing/],
    ['3000:', /^-p 3000:: a port is missing/],
    ['0:80', /^-p 0:80: 0 is not a port \(1 to 65535\)/],
    ['3000:65536', /65536 is not a port/],
    ['http:80', /http is not a port/],
    ['-1', /-1 is not a port/],
    ['1e3', /1e3 is not a port/],
    ['127.0.0.1:3000:80', /expected LOCAL\[:CONTAINER\]/],
  ];
  for (const [text, message] of table) {
    assert.throws(() => parsePortMapping(text), { code: 'usage', message }, JSON.stringify(text));
  }
});

test('options that make no sense are refused, by name', () => {
  const table: [Record<string, unknown>, string[] | undefined, RegExp][] = [
    [{}, undefined, /connect needs a target/],
    [{ target: 'web' }, [], /no command after --/],
    [{ target: 'web', port: ['1:80', '2:80'] }, undefined, /port 80 is mapped twice/],
    [{ target: 'web', namespace: ['a', 'b'] }, undefined, /--namespace is given more than once/],
    [{ target: 'web', context: '' }, undefined, /--context needs a value/],
    [{ target: 'web', transport: 'pigeon' }, undefined, /--transport is auto or proxy or port-forward, not pigeon/],
    [{ target: 'web', 'proxy-port': '70000' }, undefined, /--proxy-port is a number from 0 to 65535, not 70000/],
    [{ target: 'web', 'proxy-port': 'x' }, undefined, /not x/],
    [{ target: 'web', hold: '0' }, undefined, /--hold is a number from 1 to 86400, not 0/],
    [{ target: 'web', hold: '-5' }, undefined, /not -5/],
    [{ target: 'web', output: 'xml' }, undefined, /--output is text or json, not xml/],
  ];
  for (const [words, command, message] of table) {
    assert.throws(() => readConnectOptions(words, command), { code: 'usage', message }, JSON.stringify(words));
  }
});

test('who has connections kept for longer has the workload kept for as long, unless told otherwise', () => {
  const seconds = (words: Record<string, string>) =>
    readConnectOptions({ target: 'web', ...words }, undefined).restoreAfterMs / 1_000;
  assert.equal(seconds({ hold: '300' }), 300);
  assert.equal(seconds({ hold: '5' }), 45);
  assert.equal(seconds({ hold: '300', 'restore-after': '20' }), 20);
});
