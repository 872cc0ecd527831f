import type { Argv } from 'yargs';
import { readChoice, readNumber, type Words } from './verb.ts';

/** Undefined: no volumes. */
export type VolumesChoice = { limitBytes: number; writeBack: boolean } | undefined;

const MIB = 1_024 * 1_024;
/** Less than the 8 GiB that one file of an archive may have. */
const LIMIT_MIB = { least: 1, most: 8_000, otherwise: 100 };

export function volumesOptions(words: Argv): Argv {
  return words
    .option('volumes', {
      string: true,
      requiresArg: true,
      describe:
        'ro (default): the command finds the pod’s volumes at their paths, read-only; rw: what it changes in PVCs and emptyDirs is written back; or none',
    })
    .option('volume-limit', {
      string: true,
      requiresArg: true,
      describe: `MiB that are copied of each volume (default: ${LIMIT_MIB.otherwise})`,
    });
}

/** @throws LpkError `usage`. */
export function readVolumesChoice(words: Words): VolumesChoice {
  const limitBytes = readNumber(words, 'volume-limit', LIMIT_MIB) * MIB;
  const access = readChoice(words, 'volumes', ['ro', 'rw', 'none'] as const, 'ro');
  return access === 'none' ? undefined : { limitBytes, writeBack: access === 'rw' };
}
