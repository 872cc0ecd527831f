import { isMap, isSeq, parseAllDocuments } from 'yaml';
import { describeRights, type Right } from '../agent/deploy/preflight.ts';

/** docs/rbac.yaml as rights, one by one. */

export type RoleRight = Right & { optional: boolean };

/** By the Role's name. A rule is optional when the comment before it begins so. */
export function readRoles(yaml: string): Map<string, RoleRight[]> {
  const roles = new Map<string, RoleRight[]>();
  for (const document of parseAllDocuments(yaml)) {
    const { kind, metadata, rules } = document.toJS();
    if (kind !== 'Role') continue;
    const list = document.get('rules');
    if (!isSeq(list)) throw new Error(`${metadata.name} has no rules`);
    const rights = list.items.flatMap((item, i) => {
      const optional = isMap(item) && /^ optional\b/.test(item.commentBefore ?? '');
      return rightsOf(rules[i]).map((right) => ({ ...right, optional }));
    });
    roles.set(metadata.name, rights);
  }
  return roles;
}

export type Rule = { apiGroups: string[]; resources: string[]; verbs: string[] };

/** Of a rule of one API group. */
export function rightsOf({ apiGroups, resources, verbs }: Rule): Right[] {
  const [group] = apiGroups;
  return resources.flatMap((name) => {
    const [resource, subresource] = name.split('/') as [string, string?];
    const of = { ...(group ? { group } : {}), resource, ...(subresource ? { subresource } : {}) };
    return verbs.map((verb) => ({ verb, ...of }));
  });
}

/** The rules that give exactly these rights. */
export function rulesOf(rights: Right[]): Rule[] {
  return rights.map(({ verb, group = '', resource, subresource }) => ({
    apiGroups: [group],
    resources: [subresource ? `${resource}/${subresource}` : resource],
    verbs: [verb],
  }));
}

/** `get pods/exec`, `list deployments.apps`: without the object's name. */
export function inWords(right: Right): string {
  return describeRights([{ ...right, name: undefined }]);
}
