import { setTimeout as pause } from 'node:timers/promises';
import type { Json } from '../../agent/deploy/kube.ts';
import type { Session } from './lane.ts';
import { ends, leaves } from './session.ts';
import type { Row } from './table.ts';

/** Other people at the same workload. */

/** A field that somebody else changes while a session holds the workload, and that stays theirs. */
type Edit = { name: string; ops: Json[]; changed: (spec: Json) => void };

const CONTAINER = '/spec/template/spec/containers/0';

const EDITED_IMAGE = 'docker.io/library/busybox:1';

const EDITS: Edit[] = [
  {
    name: 'image',
    // No agent starts with it; with the workload's own command it is the image that was there.
    ops: [{ op: 'replace', path: `${CONTAINER}/image`, value: EDITED_IMAGE }],
    changed: (spec) => {
      spec.template.spec.containers[0].image = EDITED_IMAGE;
    },
  },
  {
    name: 'replicas',
    ops: [{ op: 'replace', path: '/spec/replicas', value: 2 }],
    changed: (spec) => {
      spec.replicas = 2;
    },
  },
  {
    name: 'env',
    ops: [{ op: 'add', path: `${CONTAINER}/env`, value: [{ name: 'COLOR', value: 'blue' }] }],
    changed: (spec) => {
      spec.template.spec.containers[0].env = [{ name: 'COLOR', value: 'blue' }];
    },
  },
];

export function peopleRows(): Row[] {
  return [
    ...EDITS.map(
      ({ name, ops, changed }): Row => ({
        name: `another person edits ${name} meanwhile: it stays theirs`,
        run: async (lane, nth) => {
          const session = await lane.connect(['--restore-after', '15']);
          await lane.edit(ops);
          if (ops.some(({ path }) => path.startsWith('/spec/template'))) await lane.restorerKnows(session.id, 2);
          await isOver(session, nth);
          await lane.restored(changed);
          await lane.reset();
          await lane.nothingLeft();
          return { restored: true, nothingLeft: true };
        },
      }),
    ),
    {
      name: 'another person deletes the workload meanwhile',
      run: async (lane, nth) => {
        const { lpk } = await lane.connect(['--restore-after', '15']);
        if (nth % 2 === 1) {
          lpk.signal('SIGKILL');
          await lpk.exit();
        }
        await lane.delete();
        if (nth % 2 === 0) await ends(lpk, /deployment\/web was deleted/);
        await lane.nothingLeft();
        await lane.reset();
        return { nothingLeft: true };
      },
    },
    {
      name: 'a policy refuses the restore for a while',
      run: async (lane) => {
        const { lpk } = await lane.connect(['--restore-after', '15']);
        const allow = await lane.refuseWrites();
        lpk.signal('SIGKILL');
        await lpk.exit();
        await pause(REFUSED_MS);
        await allow();
        await lane.restored();
        await lane.nothingLeft();
        return { restored: true, nothingLeft: true };
      },
    },
    {
      name: 'two people connect at the same instant: one wins',
      run: async (lane) => {
        const both = [lane.begin(), lane.begin()];
        const said = await Promise.all(
          both.map((lpk) => lpk.until('ready, or why not', () => lpk.events.find(({ event }) => ANSWERS.has(event)))),
        );
        const [winner] = both.filter((_, i) => said[i]?.event === 'ready');
        const refused = said.filter(({ event, code }) => event === 'error' && code === 'already-held');
        if (!winner || refused.length !== 1) throw new Error(`expected one winner; ${both.join('\n')}`);
        await leaves(winner);
        await lane.restored();
        await lane.nothingLeft();
        return { restored: true, nothingLeft: true };
      },
    },
  ];
}

/** So that the restorer has met it more than once. */
const REFUSED_MS = 30_000;

const ANSWERS = new Set(['ready', 'error']);

/** By its laptop, or by its laptop's death. */
async function isOver({ lpk }: Session, nth: number): Promise<void> {
  if (nth % 2 === 0) return await leaves(lpk);
  lpk.signal('SIGKILL');
  await lpk.exit();
}
