/** KubernetesLocalProcessConfig.yaml, in the format that Microsoft documents for Bridge to Kubernetes. */
import assert from 'node:assert/strict';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { bridgeDifferences, parseBridgeConfig, readBridgeConfig } from '../../../cli/bridge-config.ts';
import { envWords, fillVolumes } from '../../../cli/env-tokens.ts';

const dir = mkdtempSync(join(tmpdir(), 'lpk-bridge-'));
after(() => rmSync(dir, { recursive: true }));

/** A folder with Microsoft's own example. */
const DOCUMENTED = join(import.meta.dirname, 'fixtures');

const PLACES: Record<string, string> = {
  'default-token-*': '/var/run/secrets/kubernetes.io/serviceaccount',
  'allow-list': '/config',
};

test('the documented file gives the documented variables', () => {
  const config = readBridgeConfig(DOCUMENTED);
  assert.ok(config);
  const { env, names, routes } = envWords(config.env);
  assert.deepEqual(
    env.map((each) => fillVolumes(each, (name) => PLACES[name] as string)),
    [
      'KUBERNETES_IN_CLUSTER_CONFIG_OVERRIDE=/var/run/secrets/kubernetes.io/serviceaccount',
      'ALLOW_LIST_PATH=/config/allow-list',
      'MYAPP1_SERVICE_HOST=myapp1/api/v1/',
      'MYAPP2_SERVICE_HOST=myapp2.mynamespace',
      'DEBUG_MODE=true',
      'DB_HOST=server-bridgetest123.database.windows.net',
    ],
  );
  assert.deepEqual(names, ['server-bridgetest123.database.windows.net'], 'it is reached from the pod');
  assert.deepEqual(routes, []);
  assert.deepEqual(bridgeDifferences(config), [
    'KubernetesLocalProcessConfig.yaml: enableFeatures: lpk has no ManagedIdentity',
    'KubernetesLocalProcessConfig.yaml: default-token-* is not put at /var/run/secrets/kubernetes.io/serviceaccount: it is where the pod has it',
  ]);
});

test('the forms that Bridge’s own tests have', () => {
  const config = parseBridgeConfig(
    'f',
    `
# comments, empty lines, other letters, ports

version: 0.1
env:
  - name: GENEVA_SERVICE_HOST    # random comment
    value: $(services:geneva-infra.infra:80)
  - name: STORAGE
    value: $(externalEndpoints:myteststorage.blob.core.windows.net:80,443)
  - name: DB
    value: $(externalendpoints:10.10.12.5:3306)
  - name: URL
    value: http://$(services:a)/x?y=$(services:b.c)&z=$(HOME)
  - name: PORT
    value: 8080
  - name: EMPTY
    value:
volumeMounts:
`,
  );
  assert.deepEqual(envWords(config.env), {
    env: [
      'GENEVA_SERVICE_HOST=geneva-infra.infra',
      'STORAGE=myteststorage.blob.core.windows.net',
      'DB=10.10.12.5',
      'URL=http://a/x?y=b.c&z=$(HOME)',
      'PORT=8080',
      'EMPTY=',
    ],
    names: ['myteststorage.blob.core.windows.net'],
    routes: ['10.10.12.5/32'],
  });
});

test('features that lpk has not are named', () => {
  const config = parseBridgeConfig(
    'f',
    'version: 0.1\nenableFeatures:\n  - Probes\n  - ManagedIdentity\n  - LifecycleHooks\n  - Teleport\n',
  );
  assert.deepEqual(bridgeDifferences(config), [
    'KubernetesLocalProcessConfig.yaml: enableFeatures: lpk has no ManagedIdentity',
    'KubernetesLocalProcessConfig.yaml: enableFeatures: lpk has no LifecycleHooks',
    'KubernetesLocalProcessConfig.yaml: enableFeatures: lpk has no Teleport',
  ]);
});

test('what is wrong with one is told with line and column', () => {
  const value = (text: string) => `version: 0.1\nenv:\n  - name: A\n    value: ${text}\n`;
  const table: [string, string][] = [
    ['env: []\n', 'f:1:1: "version" is missing'],
    ['version: 1.1\n', 'f:1:10: version: unsupported version 1.1'],
    ['version: 0.1\nenv: {A: b}\n', 'f:2:6: env: expected a list or nothing, got fields'],
    ['version: 0.1\nenv:\n  - name: A\n', 'f:3:5: env[0]: "value" is missing'],
    [value('$(services:geneva-infra.infra:12:34)'), 'f:4:12: env.0.value: $(services:geneva-infra.infra:12:34) is not'],
    [value('$(externalEndpoints:my.windows.net)'), 'f:4:12: env.0.value: $(externalEndpoints:my.windows.net) is not'],
    [value('$(secrets:x)'), 'f:4:12: env.0.value: $(secrets:x) is unknown; known: $(services:…)'],
    [value('$(volumeMounts:../x)'), 'f:4:12: env.0.value: $(volumeMounts:../x) is not'],
    ['version: 0.1\nenvs: []\n', 'f:2:1: "envs" is unknown'],
    ['version: 0.1\n  env: []\n', 'f:'],
  ];
  for (const [text, expected] of table) {
    assert.throws(
      () => parseBridgeConfig('f', text),
      (error: Error & { code: string }) => {
        assert.equal(error.code, 'profile-invalid');
        assert.equal(error.message.slice(0, expected.length), expected);
        return true;
      },
    );
  }
});

test('no file, no configuration; and not one without bounds', () => {
  const folder = mkdtempSync(join(dir, 'none-'));
  assert.equal(readBridgeConfig(folder), undefined);
  writeFileSync(join(folder, 'KubernetesLocalProcessConfig.yaml'), `#${'x'.repeat(1024 * 1024)}`);
  assert.throws(() => readBridgeConfig(folder), { code: 'profile-invalid', message: /more than 1048576 bytes/ });
});
