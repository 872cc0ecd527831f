import assert from 'node:assert/strict';
import test from 'node:test';
import fc from 'fast-check';
import { cidrText, contains, merge, overlaps, parseCidr, subtract } from '../../../proxy/cidr.ts';

const parse = (...texts: string[]) => texts.map(parseCidr);
const text = (ranges: ReturnType<typeof parse>) => ranges.map(cidrText);

test('ranges are read as people write them', () => {
  for (const [written, read] of [
    ['10.96.0.0/16', '10.96.0.0/16'],
    ['10.96.0.10/16', '10.96.0.0/16'],
    ['10.96.0.10', '10.96.0.10/32'],
    ['0.0.0.0/0', '0.0.0.0/0'],
    ['255.255.255.255/32', '255.255.255.255/32'],
    [' 10.0.0.0/8 ', '10.0.0.0/8'],
    ['FD00:10:96::/112', 'fd00:10:96::/112'],
    ['fd00::1/64', 'fd00::/64'],
    ['::1', '::1/128'],
    ['::/0', '::/0'],
    ['2001:db8:0:0:1:0:0:1', '2001:db8::1:0:0:1/128'],
    ['::ffff:10.0.0.1', '::ffff:10.0.0.1/128'],
  ] as const) {
    assert.equal(cidrText(parseCidr(written)), read, written);
  }
});

test('what is no range is refused, by its text', () => {
  const wrong = [
    '',
    '10.96.0.0/33',
    '10.96.0/16',
    'web',
    'fd00::/129',
    '10.0.0.0/',
    '10.0.0.0/8/8',
    '/8',
    '10.0.0.0/-1',
    'fe80::1%eth0',
  ];
  for (const text of wrong) {
    assert.throws(() => parseCidr(text), {
      code: 'usage',
      message: `${JSON.stringify(text)} is no range of addresses, as 10.96.0.0/16 is one`,
    });
  }
});

test('containing and overlapping', () => {
  const [wide, narrow, other, v6] = parse('10.0.0.0/8', '10.96.0.0/12', '11.0.0.0/8', '::/0');
  assert.equal(contains(wide!, narrow!), true);
  assert.equal(contains(narrow!, wide!), false);
  assert.equal(overlaps(narrow!, wide!), true);
  assert.equal(overlaps(wide!, other!), false);
  assert.equal(overlaps(v6!, wide!), false, 'of two families');
  assert.equal(contains(wide!, wide!), true);
});

test('merging takes what is contained away and joins halves', () => {
  assert.deepEqual(text(merge(parse('10.0.1.0/24', '10.0.0.0/24', '10.0.0.7', '10.0.2.0/23', 'fd00::1', 'fd00::'))), [
    '10.0.0.0/22',
    'fd00::/127',
  ]);
  assert.deepEqual(
    text(merge(parse('10.0.1.0/24', '10.0.2.0/24'))),
    ['10.0.1.0/24', '10.0.2.0/24'],
    'not halves of one',
  );
  assert.deepEqual(text(merge(parse('128.0.0.0/1', '0.0.0.0/1'))), ['0.0.0.0/0']);
});

test('a hole leaves the rest', () => {
  assert.deepEqual(text(subtract(parse('10.0.0.0/30'), parse('10.0.0.1'))), ['10.0.0.0/32', '10.0.0.2/31']);
  assert.deepEqual(text(subtract(parse('10.0.0.0/24', '10.1.0.0/24'), parse('10.0.0.0/16'))), ['10.1.0.0/24']);
  assert.deepEqual(text(subtract(parse('10.0.0.0/24'), parse('fd00::/8', '10.0.1.0/24'))), ['10.0.0.0/24']);
  assert.equal(subtract(parse('10.96.0.0/12'), parse('10.96.0.1')).length, 20);
  assert.equal(subtract(parse('fd00::/8'), parse('fd12::1')).length, 120);
});

test('subtracting keeps exactly the addresses that are in a range and in no hole', () => {
  // In a space of 256 addresses all can be tried.
  const range = fc
    .tuple(fc.integer({ min: 0, max: 255 }), fc.integer({ min: 24, max: 32 }))
    .map(([byte, bits]) => parseCidr(`10.0.0.${byte}/${bits}`));
  const ranges = fc.array(range, { maxLength: 6 });
  fc.assert(
    fc.property(ranges, ranges, (some, holes) => {
      const left = subtract(some, holes);
      for (let byte = 0; byte < 256; byte++) {
        const address = parseCidr(`10.0.0.${byte}`);
        const isIn = (set: typeof some) => set.filter((each) => contains(each, address)).length;
        assert.equal(isIn(left), isIn(some) > 0 && isIn(holes) === 0 ? 1 : 0, `10.0.0.${byte} in ${text(left)}`);
      }
      assert.deepEqual(merge(left), left);
    }),
    { numRuns: 200 },
  );
});
