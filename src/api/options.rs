//! One list of options, from which every type that has them is made.
//!
//! In:  the options of a thing, each written once. Out: its settings (all options), the patch that changes some of
//! them, and the types that have them among other fields; how to compare, merge and patch settings.

/// See the module. Each option says in front of `whole:` what holds everywhere, behind it what holds for the settings,
/// behind `patch:` what holds for the patch.
macro_rules! options {
    (
        $(#[$settings_meta:meta])* settings $Settings:ident;
        $(#[$patch_meta:meta])* patch $Patch:ident;
        $( $(#[$meta:meta])* whole $Whole:ident $before:tt $after:tt )+
        options $options:tt
    ) => {
        options! { @settings [$(#[$settings_meta])*] $Settings [$(#[$patch_meta])*] $Patch $options }
        $( options! { @whole [$(#[$meta])*] $Whole $Settings $before $after $options } )+
    };

    (
        @settings [$($settings_meta:tt)*] $Settings:ident [$($patch_meta:tt)*] $Patch:ident
        { $( $(#[$common:meta])* $name:ident: $Type:ty { whole: $(#[$whole:meta])* patch: $(#[$patch:meta])* } )* }
    ) => {
        $($settings_meta)*
        #[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
        #[serde(deny_unknown_fields)]
        pub struct $Settings {
            $( $(#[$common])* $(#[$whole])* pub $name: $Type, )*
        }

        $($patch_meta)*
        #[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
        #[cfg_attr(feature = "clap", derive(clap::Args))]
        #[serde(deny_unknown_fields)]
        pub struct $Patch {
            $(
                $(#[$common])*
                $(#[$patch])*
                #[serde(default, skip_serializing_if = "Option::is_none")]
                pub $name: Option<$Type>,
            )*
        }

        impl Default for $Settings {
            fn default() -> Self {
                let nothing = MapDeserializer::<_, ValueError>::new(std::iter::empty::<(String, String)>());
                Self::deserialize(nothing).expect("every option has a default")
            }
        }

        impl From<$Settings> for $Patch {
            fn from(settings: $Settings) -> Self {
                let $Settings { $($name),* } = settings;
                Self { $($name: Some($name)),* }
            }
        }

        impl $Settings {
            /// These settings with the changes of `patch`.
            #[must_use]
            pub fn patched(self, patch: $Patch) -> Self {
                Self { $($name: patch.$name.unwrap_or(self.$name)),* }
            }

            /// Takes every option from `file` that differs between `base` and `file`; all of them without a base.
            pub fn merge(&mut self, base: Option<&Self>, file: &Self) {
                $(
                    if base.is_none_or(|base| base.$name != file.$name) {
                        self.$name.clone_from(&file.$name);
                    }
                )*
            }
        }
    };

    (
        @whole [$($meta:tt)*] $Whole:ident $Settings:ident
        { $( $(#[$before_meta:meta])* $before:ident: $Before:ty, )* }
        { $( $(#[$after_meta:meta])* $after:ident: $After:ty, )* }
        { $( $(#[$common:meta])* $name:ident: $Type:ty { whole: $(#[$whole:meta])* patch: $(#[$patch:meta])* } )* }
    ) => {
        $($meta)*
        pub struct $Whole {
            $( $(#[$before_meta])* pub $before: $Before, )*
            $( $(#[$common])* $(#[$whole])* pub $name: $Type, )*
            $( $(#[$after_meta])* pub $after: $After, )*
        }

        impl $Whole {
            /// With these settings, and the fields that are no options.
            #[must_use]
            pub fn new(settings: $Settings $(, $before: $Before)* $(, $after: $After)*) -> Self {
                let $Settings { $($name),* } = settings;
                Self { $($before,)* $($name,)* $($after,)* }
            }

            /// All options.
            #[must_use]
            pub fn settings(&self) -> $Settings {
                $Settings { $($name: self.$name.clone()),* }
            }

            /// Sets all options.
            pub fn set(&mut self, settings: $Settings) {
                let $Settings { $($name),* } = settings;
                $(self.$name = $name;)*
            }
        }
    };
}

pub(crate) use options;
