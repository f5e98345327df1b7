// The panels that Wearsight's boards use, each with its own options and no key unknown. See `make` notes in README.
import type { Dashboard, Panel, RowPanel } from './node_modules/@grafana/schema/dist/types/raw/dashboard/x/types.gen';
import type * as Series from './node_modules/@grafana/schema/dist/types/raw/composable/timeseries/panelcfg/x/types.gen';
import type * as Stat from './node_modules/@grafana/schema/dist/types/raw/composable/stat/panelcfg/x/types.gen';
import type * as Table from './node_modules/@grafana/schema/dist/types/raw/composable/table/panelcfg/x/types.gen';
import type * as States from './node_modules/@grafana/schema/dist/types/raw/composable/statetimeline/panelcfg/x/types.gen';

type Config = NonNullable<Panel['fieldConfig']>;
type Fields<Custom> = Omit<Config, 'defaults'> & { defaults: Omit<Config['defaults'], 'custom'> & { custom?: Custom } };
type Source = { type: string; uid: string };
type Target = { refId: string; query: string; datasource: Source };
type Of<Type extends string, Options, Custom> = Omit<Panel, 'type' | 'options' | 'fieldConfig' | 'datasource' | 'targets'> & {
  type: Type; options: Partial<Options>; fieldConfig: Fields<Custom>; datasource: Source; targets: Target[];
};
export type StrictPanel =
  | Of<'timeseries', Series.Options, Partial<Series.FieldConfig>>
  | Of<'stat', Stat.Options, {}>
  | Of<'table', Table.Options, Partial<Table.FieldConfig>>
  | Of<'state-timeline', States.Options, Partial<States.FieldConfig>>;
export interface StrictDashboard extends Omit<Dashboard, 'panels'> { panels: (StrictPanel | RowPanel)[] }
