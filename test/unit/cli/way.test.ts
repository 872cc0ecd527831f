/** Which names of a command's are asked of the cluster. */
import assert from 'node:assert/strict';
import test from 'node:test';
import type { Session } from '../../../agent/wire/session.ts';
import { ClusterNames } from '../../../cli/cluster-names.ts';
import { answering } from '../../../cli/way.ts';

/** A question for an A record, RFC 1035 4.1. */
function question(name: string): Buffer {
  const labels = name.split('.').map((label) => Buffer.from([label.length, ...Buffer.from(label)]));
  const header = Buffer.from([0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
  return Buffer.concat([header, ...labels, Buffer.from([0, 0, 1, 0, 1])]);
}

/** 10.9.9.9, to whatever was asked. */
function reply(message: Buffer): Buffer {
  const answer = Buffer.from([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 5, 0, 4, 10, 9, 9, 9]);
  const made = Buffer.concat([message.subarray(0, message.indexOf(0, 12) + 5), answer]);
  made.writeUInt16BE(0x8180, 2);
  made.writeUInt16BE(1, 6);
  made.writeUInt16BE(0, 10);
  return made;
}

/** NXDOMAIN: for what the search list makes of a name. */
function unknown(message: Buffer): Buffer {
  const made = Buffer.from(message);
  made.writeUInt16BE(0x8183, 2);
  return made;
}

test('an included name outside the cluster is the cluster’s, its answer marked so; another is not', async () => {
  const asked: number[] = [];
  const session = {
    isUp: true,
    queryDns: async (message: Buffer) => {
      asked.push(message.length);
      return message.includes('cluster') ? unknown(message) : reply(message);
    },
  } as unknown as Session;
  const names = new ClusterNames({ session: () => session, namespace: 'shop', ranges: () => [] });
  const askDns = answering(names, ['db.example.com']);
  const included = await askDns(question('db.example.com'));
  assert.equal(included.cluster, true);
  assert.deepEqual([...included.message.subarray(-4)], [10, 9, 9, 9]);
  assert.equal(asked.length, 1);
  const without = await answering(names)(question('db.example.com'));
  assert.equal(without.cluster, false);
});
