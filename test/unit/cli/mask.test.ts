import assert from 'node:assert/strict';
import test from 'node:test';
import { Mask, maskAll, secretVariables } from '../../../cli/mask.ts';

const KEY = `-----BEGIN EC PRIVATE KEY-----\nMHcCAQEEIIrYSSNQFaA2Hwf1duRSxKtLYX5CB04fSeQ6tF1aY/PuoAoGCCqGSM49\n-----END EC PRIVATE KEY-----\n`;

test('what is known to be secret is masked in every form a text may have it in', () => {
  const mask = new Mask();
  const secret = 'p"ss\nwörd/&=';
  mask.hide([secret, KEY]);
  const forms = [
    secret,
    JSON.stringify(secret),
    encodeURIComponent(secret),
    Buffer.from(secret).toString('base64'),
    KEY.split('\n')[1] as string,
    Buffer.from(KEY).toString('base64'),
  ];
  for (const form of forms) {
    const masked = mask.apply(`before ${form} after`);
    assert.match(masked, /^before "?\*\*\*"? after$/, form);
  }
});

test('of two secrets the one that holds the other goes as a whole', () => {
  const mask = new Mask();
  mask.hide(['hunter22']);
  mask.hide(['hunter22-and-more']);
  assert.equal(mask.apply('it is hunter22-and-more'), 'it is ***');
});

test('a long file among the values pushes no other secret out, before or after it', () => {
  const bundle = Array.from({ length: 3_000 }, (_, i) => `line ${i} ${'c'.repeat(50)}`).join('\n');
  for (const values of [
    ['hunter22', KEY, bundle],
    [bundle, KEY, 'hunter22'],
  ]) {
    const mask = new Mask();
    for (const value of values) mask.hide([value]);
    assert.equal(mask.apply('it is hunter22'), 'it is ***');
    assert.equal(mask.apply(`it is ${KEY.split('\n')[1]}`), 'it is ***');
    assert.equal(mask.apply(`it is ${bundle}`), 'it is ***');
  }
});

test('tokens that are new each hour are known for a week, and what is known has a bound', () => {
  const mask = new Mask();
  mask.hide(Array.from({ length: 1_000 }, (_, i) => `variable ${i}`));
  for (let hour = 0; hour < 7 * 24; hour++) mask.hide([`token of hour ${hour}`]);
  for (const known of ['variable 0', 'token of hour 0', 'token of hour 167']) assert.equal(mask.apply(known), '***');
  mask.hide(Array.from({ length: 10_000 }, (_, i) => `more ${i}`));
  assert.equal(mask.apply('more 9999'), '***');
  assert.equal(mask.apply('variable 0'), 'variable 0', 'the oldest went');
});

test('what everybody knows stays: short words, addresses, service links, and names that lpk itself says', () => {
  const mask = new Mask();
  mask.hide(['80', 'true', '10.96.0.1', 'fd00::1', 'tcp://10.96.0.10:443', 'frontend'], ['frontend']);
  const text = 'deployment/frontend at tcp://10.96.0.10:443, true';
  assert.equal(mask.apply(text), text);
});

test('what gives itself away is masked, whoever it belongs to', () => {
  const mask = new Mask();
  const jwt = `eyJhbGciOiJSUzI1NiJ9.${'a'.repeat(40)}.${'b-_'.repeat(20)}`;
  const table: [text: string, masked: string][] = [
    ['Authorization: Bearer abc.DEF_123==', 'Authorization: Bearer ***'],
    ['authorization: basic dXNlcjpwYXNz', 'authorization: basic ***'],
    ['at https://ann:s3cr3t@git.corp/x', 'at https://***@git.corp/x'],
    ['postgres://:pw@db:5432/shop', 'postgres://***@db:5432/shop'],
    [`token ${jwt}, expired`, 'token ***, expired'],
    [`error: ${KEY}rest`, 'error: ***\nrest'],
    ['DB_PASSWORD=hunter2 next', 'DB_PASSWORD=*** next'],
    ['{"client_secret": "a b c", "id": 1}', '{"client_secret": ***, "id": 1}'],
    ["api-key: 'x y'", 'api-key: ***'],
    ['access_token=abc&user=ann', 'access_token=***&user=ann'],
  ];
  for (const [text, masked] of table) assert.equal(mask.apply(text), masked);
});

test('what lpk says of itself stays readable', () => {
  const mask = new Mask();
  for (const text of [
    'GET /api/v1/namespaces/shop/secrets/lpk-abc status=404 ms=3 code=key-mismatch',
    'user "dev" lacks rights in namespace shop to run a proxy: create, delete secrets; get pods/proxy',
    'proxy into the cluster: socks5h://127.0.0.1:40123 or http://127.0.0.1:40123',
    'wss://10.0.0.1:6443/api/v1/namespaces/shop/pods/web-1:47601/proxy/',
  ])
    assert.equal(mask.apply(text), text);
});

test('within a value every text is masked, and its form is kept', () => {
  const mask = new Mask();
  mask.hide(['hunter22']);
  const value = { list: ['hunter22', 1, null], inner: { text: 'is hunter22', no: false } };
  assert.deepEqual(maskAll(value, mask), { list: ['***', 1, null], inner: { text: 'is ***', no: false } });
});

test('of the laptop’s own variables those are secret whose names say so', () => {
  const env = {
    GITHUB_TOKEN: 'ghp_1',
    HOME: '/home/ann',
    AWS_SECRET_ACCESS_KEY: 'k',
    DB_PASSWORD: 'p',
    EMPTY_TOKEN: '',
  };
  assert.deepEqual(secretVariables(env), ['ghp_1', 'k', 'p']);
});
