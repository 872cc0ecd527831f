/** The questions of `lpk init`, answered by a script, about a cluster that is a table. */
import assert from 'node:assert/strict';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import type { Json } from '../../../agent/deploy/kube.ts';
import { type Ask, canAsk, type Option, withoutAsking } from '../../../cli/ask.ts';
import { parseBridgeConfig } from '../../../cli/bridge-config.ts';
import { askProfile, proposedPort, type Setting } from '../../../cli/init.ts';
import type { InitOptions } from '../../../cli/init-options.ts';
import { FakeCluster } from './fake-cluster.ts';

const dir = mkdtempSync(join(tmpdir(), 'lpk-init-'));
after(() => rmSync(dir, { recursive: true }));

const NOTHING: InitOptions = {
  ...{ context: undefined, namespace: undefined, kubeconfig: undefined, target: undefined },
  ...{ container: undefined, profile: undefined, vscode: false, ports: [], command: undefined },
};

/** Answers by question; what has none gets what is proposed. Keeps what was asked. */
function scripted(answers: Record<string, string>) {
  const asked: { question: string; options?: Option[]; initial: string | boolean | undefined }[] = [];
  const ask: Ask = {
    async choose(question, options, initial) {
      asked.push({ question, options, initial });
      const answer = answers[question] ?? initial;
      const option = options.find(({ value, label }) => value === answer || label === answer);
      assert.ok(option, `${question}: ${answer} is not one of ${JSON.stringify(options)}`);
      return option.value;
    },
    async text(question, initial, fault) {
      asked.push({ question, initial });
      const answer = answers[question] ?? initial;
      assert.equal(fault?.(answer), undefined);
      return answer;
    },
    async confirm(question, initial) {
      asked.push({ question, initial });
      return initial;
    },
  };
  return { ask, asked };
}

function shop(): FakeCluster {
  const fake = new FakeCluster();
  for (const name of ['default', 'shop']) {
    fake.objects.set(`/api/v1/namespaces/${name}`, { metadata: { name } });
  }
  const web = fake.deployment('web');
  web.spec.template.spec.containers = [
    { name: 'proxy', image: 'envoy:1', ports: [{ containerPort: 15000 }] },
    { name: 'app', image: 'web:1', ports: [{ containerPort: 80 }, { containerPort: 9090 }] },
  ];
  fake.deployment('api');
  const service = (name: string, spec: Json, labels = {}) =>
    fake.objects.set(`/api/v1/namespaces/shop/services/${name}`, {
      metadata: { name, namespace: 'shop', labels },
      spec,
    });
  service('web', { selector: { app: 'web' }, ports: [{ port: 8000, targetPort: 80 }, { port: 9090 }] });
  service('outside', { type: 'ExternalName', externalName: 'example.com' });
  // A colleague's session: its restorer, and a Service, should lpk ever make one.
  const ours = { 'app.kubernetes.io/managed-by': 'lpk' };
  fake.deployment('lpk-0123456789').metadata.labels = ours;
  service('lpk-0123456789', { selector: ours, ports: [{ port: 80 }] }, ours);
  return fake;
}

function setting(ask: Ask, fake: FakeCluster, more: Partial<Setting> = {}): Setting & { said: string[] } {
  const said: string[] = [];
  return {
    folder: mkdtempSync(join(dir, 'code-')),
    ask,
    output: { say: (text) => void said.push(text), warn: (text) => void said.push(text) },
    contexts: {
      current: 'dev',
      contexts: [
        { name: 'prod', cluster: 'p', namespace: 'default' },
        { name: 'dev', cluster: 'd', namespace: 'shop' },
      ],
    },
    open: async ({ namespace }) => {
      fake.namespace = namespace ?? 'default';
      return fake.cluster;
    },
    bridge: undefined,
    said,
    ...more,
  };
}

test('everything is asked, with what is likeliest proposed', async () => {
  const { ask, asked } = scripted({ 'Service or workload': 'web', 'Launch command': 'npm run dev' });
  const made = setting(ask, shop());
  writeFileSync(join(made.folder, 'package.json'), '{"scripts":{"dev":"vite","start":"node ."}}');
  const profile = await askProfile(NOTHING, made);
  assert.deepEqual(profile, {
    target: 'web',
    context: 'dev',
    namespace: 'shop',
    container: 'app',
    ports: ['8080:80', '9090'],
    command: ['npm', 'run', 'dev'],
  });
  assert.deepEqual(
    asked.map(({ question, initial }) => [question, initial]),
    [
      ['Context', 'dev'],
      ['Namespace', 'shop'],
      ['Service or workload', undefined],
      ['Container', 'app'],
      ['Ports, LOCAL:CONTAINER', '8080:80, 9090'],
      ['Launch command', '0'],
    ],
  );
  assert.deepEqual(
    asked[2]?.options?.map(({ value }) => value),
    ['web', 'deployment/web', 'deployment/api'],
    'no Service without pods behind it, and nothing of lpk’s own',
  );
  assert.deepEqual(
    asked[5]?.options?.map(({ label }) => label),
    ['npm run dev', 'npm start', 'another command', 'none'],
  );
});

test('what the line names is not asked', async () => {
  const { ask, asked } = scripted({});
  const given = {
    ...NOTHING,
    context: 'dev',
    namespace: 'shop',
    target: 'api',
    ports: ['3000:80'],
    command: ['make', 'run'],
  };
  const fake = shop();
  fake.objects.set('/api/v1/namespaces/shop/services/api', {
    metadata: { name: 'api', namespace: 'shop' },
    spec: { selector: { app: 'api' }, ports: [{ port: 80 }] },
  });
  assert.deepEqual(await askProfile(given, setting(ask, fake)), {
    ...{ target: 'api', context: 'dev', namespace: 'shop', ports: ['3000:80'], command: ['make', 'run'] },
  });
  assert.deepEqual(asked, []);
});

test('who may not list namespaces and Services can name them', async () => {
  const fake = shop();
  fake.refused.add('GET /api/v1/namespaces');
  fake.refused.add('GET /api/v1/namespaces/shop/services');
  const { ask } = scripted({
    Namespace: 'shop',
    'Service or workload': 'deployment/api',
    'Launch command': 'another command',
    Command: 'go run "./a b"',
  });
  const profile = await askProfile(NOTHING, setting(ask, fake));
  assert.deepEqual(profile, {
    ...{ target: 'deployment/api', context: 'dev', namespace: 'shop' },
    ports: ['8080:80'],
    command: ['go', 'run', './a b'],
  });
});

test('a KubernetesLocalProcessConfig.yaml becomes the profile’s variables, tokens and all', async () => {
  const { ask } = scripted({ 'Service or workload': 'deployment/api' });
  const bridge = parseBridgeConfig(
    '/x/KubernetesLocalProcessConfig.yaml',
    'version: 0.1\nenableFeatures: [ManagedIdentity]\nenv:\n  - {name: A, value: "$(services:db)/x"}\n',
  );
  const made = setting(ask, shop(), { bridge });
  const profile = await askProfile(NOTHING, made);
  assert.deepEqual(profile.env, { A: '$(services:db)/x' });
  assert.deepEqual(profile.command, undefined, 'nothing was found, so none is proposed');
  assert.deepEqual(made.said, [
    'taken over from KubernetesLocalProcessConfig.yaml: A',
    'KubernetesLocalProcessConfig.yaml: enableFeatures: lpk has no ManagedIdentity',
  ]);
});

test('without a terminal what is proposed is taken, and what can’t be guessed is an error', async () => {
  await assert.rejects(askProfile(NOTHING, setting(withoutAsking, shop())), {
    code: 'usage',
    message: 'there is no terminal to ask: Service or workload',
  });
  const profile = await askProfile(
    { ...NOTHING, target: 'deployment/web', container: 'app' },
    setting(withoutAsking, shop()),
  );
  assert.deepEqual(profile.ports, ['8080:80', '9090']);
  assert.equal(canAsk({ format: 'json' }), false);
});

test('a port that needs root is proposed with another number', () => {
  assert.deepEqual([80, 443, 1023, 1024, 8080].map(proposedPort), [8080, 8443, 9023, 1024, 8080]);
});
