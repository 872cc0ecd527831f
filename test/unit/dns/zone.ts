import { Packet } from 'dns2';
import { A, AAAA, answer, CNAME, name, PTR, record, SRV, soa, uint16 } from './wire.ts';

/** A resolver in the process that knows some names, and answers about others as CoreDNS does. */
export type Zone = {
  ask: (message: Buffer) => Promise<Buffer>;
  /** What it was asked, oldest first: `web.shop.svc.cluster.local A`. */
  asked: string[];
};

const TYPES: Record<string, number> = { A, AAAA, CNAME, PTR, SRV };

/** @param records `web.shop A 10.0.0.1`; SRV has a port and a target. A name above a known one exists, without data. */
export function zone(records: string[], { ttlS = 5, minimumS = 5, fails = () => false as boolean } = {}): Zone {
  const known = records.map((text) => {
    const [owner = '', type = '', ...value] = text.split(' ');
    return { owner, type: TYPES[type] as number, data: dataOf(type, value) };
  });
  const asked: string[] = [];
  return {
    asked,
    ask: async (message) => {
      const [question] = Packet.parse(message).questions;
      const { name: qname, type } = question as { name: string; type: number };
      asked.push(`${qname} ${Object.keys(TYPES).find((text) => TYPES[text] === type) ?? type}`);
      if (fails()) throw new Error('no answer');
      const own = qname.toLowerCase();
      const exists = known.some(({ owner }) => owner === own || owner.endsWith(`.${own}`));
      const answers = known
        .filter(({ owner, type: has }) => owner === own && (has === type || has === CNAME))
        .map(({ type: has, data }) => record(name(qname), has, ttlS, data));
      const authorities = answers.length > 0 ? [] : [soa(name('cluster.local'), 300, minimumS)];
      const reply = answer(qname, type, { flags: exists ? 0x8580 : 0x8583, answers, authorities });
      message.copy(reply, 0, 0, 2);
      return reply;
    },
  };
}

function dataOf(type: string, value: string[]): Buffer {
  const [first = '', second = ''] = value;
  if (type === 'A') return Buffer.from(first.split('.').map(Number));
  if (type === 'AAAA') return Buffer.concat([Buffer.alloc(15), Buffer.from(first.replace('::', ''), 'hex')]);
  if (type === 'SRV') return Buffer.concat([uint16(0), uint16(100), uint16(Number(first)), name(second)]);
  return name(first);
}

/** A cluster's names, as CoreDNS has them, for a pod in the namespace shop. */
export const CLUSTER = [
  'web.shop.svc.cluster.local A 10.96.0.7',
  '_http._tcp.web.shop.svc.cluster.local SRV 80 web.shop.svc.cluster.local',
  'db.shop.svc.cluster.local A 10.244.0.3',
  'web-0.db.shop.svc.cluster.local A 10.244.0.3',
  'outside.shop.svc.cluster.local CNAME www.example.com',
  'cart.other.svc.cluster.local A 10.96.0.9',
  'cart.dev.svc.cluster.local A 10.96.0.10',
  '7.0.96.10.in-addr.arpa PTR web.shop.svc.cluster.local',
  '1.1.168.192.in-addr.arpa PTR node.shop.svc.cluster.local',
  'www.inside.example A 10.5.5.5',
  'github.com A 10.9.9.9',
];

export const HOST = [
  'github.com A 140.82.121.3',
  'go.dev A 216.239.32.21',
  'nas A 192.168.1.9',
  'www.inside.example A 93.1.1.1',
  '9.1.168.192.in-addr.arpa PTR nas',
  '8.8.8.8.in-addr.arpa PTR dns.google',
  'secret.cluster.local A 1.2.3.4',
];

export const SEARCH = ['shop.svc.cluster.local', 'svc.cluster.local', 'cluster.local', 'eu.compute.internal'];
