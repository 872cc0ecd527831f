import assert from 'node:assert/strict';
import test from 'node:test';
import { NOTHING, parseDnsperf, plus } from '../../bench/dnsperf.ts';

/** As dnsperf 2.10.0 of Debian 12 says it. */
const OUTPUT = `DNS Performance Testing Tool
Version 2.10.0

[Status] Command line: dnsperf -s 127.0.0.1 -p 1053 -d names -n 1 -c 1 -T 1
[Status] Sending queries (to 127.0.0.1:1053)
[Status] Started at: Tue Nov 24 20:23:45 2026
[Status] Stopping after 1 run through file
[Timeout] Query timed out: msg id 7
[Status] Testing complete (end of file)

Statistics:

  Queries sent:         1000
  Queries completed:    990 (99.00%)
  Queries lost:         10 (1.00%)

  Response codes:       NOERROR 900 (90.91%), SERVFAIL 60 (6.06%), NXDOMAIN 30 (3.03%)
  Average packet size:  request 37, response 53
  Run time (s):         0.356721
  Queries per second:   2775.278

  Average Latency (s):  0.035 (min 0.001, max 0.048)
  Latency StdDev (s):   0.004
`;

test('dnsperf’s statistics', () => {
  assert.deepEqual(parseDnsperf(OUTPUT), {
    ...{ sent: 1000, lost: 10, servfail: 60, otherErrors: 30 },
    queriesPerSecond: 2775.278,
  });
});

test('no answer at all is none that failed', () => {
  const silent = OUTPUT.replace('lost:         10', 'lost:         1000').replace(/NOERROR.*/, '');
  assert.deepEqual(
    { ...parseDnsperf(silent), queriesPerSecond: 0 },
    { ...NOTHING, sent: 1000, lost: 1000, queriesPerSecond: 0 },
  );
});

test('what is no statistics is refused, with what was said', () => {
  assert.throws(() => parseDnsperf('Error: unable to open names\n'), /unable to open names/);
});

test('several runs are counted together', () => {
  const result = parseDnsperf(OUTPUT);
  assert.deepEqual(plus(plus(NOTHING, result), result), { sent: 2000, lost: 20, servfail: 120, otherErrors: 60 });
});
