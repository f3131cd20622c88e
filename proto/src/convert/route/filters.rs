//! Filters of routes.

use hermes_core::{
    address::{DnsName, ServerScheme},
    route::{
        HeaderEdits, HeaderField, PathEdit, RouteFilters, RouteMirror, RouteRedirect, UrlRewrite,
    },
};

use super::{
    super::{Invalid, cluster::port_number, each, required},
    target,
};
use crate::v1::{self, path_edit::Edit};

// === RouteFilters ===

impl From<&RouteFilters> for v1::RouteFilters {
    fn from(filters: &RouteFilters) -> Self {
        let RouteFilters {
            request_headers,
            response_headers,
            redirect,
            rewrite,
            mirrors,
        } = filters;
        let edits = |edits: &HeaderEdits| (!edits.is_empty()).then(|| v1::HeaderEdits::from(edits));
        Self {
            request_headers: edits(request_headers),
            response_headers: edits(response_headers),
            redirect: redirect.as_ref().map(v1::RouteRedirect::from),
            rewrite: rewrite.as_ref().map(|rewrite| v1::UrlRewrite {
                hostname: rewrite.hostname.as_ref().map(ToString::to_string),
                path: rewrite.path.as_ref().map(v1::PathEdit::from),
            }),
            mirrors: mirrors.iter().map(v1::RouteMirror::from).collect(),
        }
    }
}

impl TryFrom<v1::RouteFilters> for RouteFilters {
    type Error = Invalid;

    fn try_from(wire: v1::RouteFilters) -> Result<Self, Invalid> {
        let v1::RouteFilters {
            request_headers,
            response_headers,
            redirect,
            rewrite,
            mirrors,
        } = wire;
        let edits = Option::<v1::HeaderEdits>::unwrap_or_default;
        let redirect = redirect.map(RouteRedirect::try_from).transpose();
        let rewrite = rewrite.map(UrlRewrite::try_from).transpose();
        Ok(Self {
            request_headers: edits(request_headers).into(),
            response_headers: edits(response_headers).into(),
            redirect: redirect.map_err(|e| e.inside("redirect"))?,
            rewrite: rewrite.map_err(|e| e.inside("rewrite"))?,
            mirrors: each(mirrors, "mirrors")?,
        })
    }
}

// === HeaderEdits ===

impl From<&HeaderEdits> for v1::HeaderEdits {
    fn from(HeaderEdits { set, add, remove }: &HeaderEdits) -> Self {
        let fields = |fields: &[HeaderField]| fields.iter().map(v1::HeaderField::from).collect();
        Self {
            set: fields(set),
            add: fields(add),
            remove: remove.iter().map(ToString::to_string).collect(),
        }
    }
}

impl From<v1::HeaderEdits> for HeaderEdits {
    fn from(wire: v1::HeaderEdits) -> Self {
        let v1::HeaderEdits { set, add, remove } = wire;
        let fields =
            |fields: Vec<v1::HeaderField>| fields.into_iter().map(HeaderField::from).collect();
        Self {
            set: fields(set),
            add: fields(add),
            remove: remove.into_iter().map(Into::into).collect(),
        }
    }
}

impl From<&HeaderField> for v1::HeaderField {
    fn from(HeaderField { name, value }: &HeaderField) -> Self {
        Self {
            name: name.to_string(),
            value: value.to_string(),
        }
    }
}

impl From<v1::HeaderField> for HeaderField {
    fn from(v1::HeaderField { name, value }: v1::HeaderField) -> Self {
        Self {
            name: name.into(),
            value: value.into(),
        }
    }
}

// === PathEdit ===

impl From<&PathEdit> for v1::PathEdit {
    fn from(edit: &PathEdit) -> Self {
        let edit = match edit {
            PathEdit::Full(path) => Edit::Full(path.to_string()),
            PathEdit::Prefix(path) => Edit::Prefix(path.to_string()),
        };
        Self { edit: Some(edit) }
    }
}

impl TryFrom<v1::PathEdit> for PathEdit {
    type Error = Invalid;

    fn try_from(wire: v1::PathEdit) -> Result<Self, Invalid> {
        Ok(match required(wire.edit, "path.edit")? {
            Edit::Full(path) => Self::Full(path.into()),
            Edit::Prefix(path) => Self::Prefix(path.into()),
        })
    }
}

// === RouteRedirect ===

impl From<&RouteRedirect> for v1::RouteRedirect {
    fn from(redirect: &RouteRedirect) -> Self {
        let RouteRedirect {
            scheme,
            hostname,
            port,
            path,
            status,
        } = redirect;
        Self {
            scheme: scheme.map(|scheme| scheme.as_str().to_owned()),
            hostname: hostname.as_ref().map(ToString::to_string),
            port: port.map(|port| port.get().into()),
            path: path.as_ref().map(v1::PathEdit::from),
            status: (*status).into(),
        }
    }
}

impl TryFrom<v1::RouteRedirect> for RouteRedirect {
    type Error = Invalid;

    fn try_from(wire: v1::RouteRedirect) -> Result<Self, Invalid> {
        let v1::RouteRedirect {
            scheme,
            hostname,
            port,
            path,
            status,
        } = wire;
        let scheme = match scheme.as_deref() {
            None => None,
            Some("http") => Some(ServerScheme::Http),
            Some("https") => Some(ServerScheme::Https),
            Some(_) => return Err(Invalid::new("scheme", "must be http or https")),
        };
        let port = port.map(|port| port_number(port, "port")).transpose()?;
        let status = u16::try_from(status).ok();
        let status = status.filter(|status| matches!(status, 301..=303 | 307 | 308));
        Ok(Self {
            scheme,
            hostname: host(hostname)?,
            port,
            path: path.map(PathEdit::try_from).transpose()?,
            status: status
                .ok_or_else(|| Invalid::new("status", "must be 301, 302, 303, 307 or 308"))?,
        })
    }
}

// === UrlRewrite ===

impl TryFrom<v1::UrlRewrite> for UrlRewrite {
    type Error = Invalid;

    fn try_from(wire: v1::UrlRewrite) -> Result<Self, Invalid> {
        let v1::UrlRewrite { hostname, path } = wire;
        Ok(Self {
            hostname: host(hostname)?,
            path: path.map(PathEdit::try_from).transpose()?,
        })
    }
}

fn host(text: Option<String>) -> Result<Option<DnsName>, Invalid> {
    let name = text.map(|text| text.parse()).transpose();
    name.map_err(|_| Invalid::new("hostname", "must be a DNS name"))
}

// === RouteMirror ===

impl From<&RouteMirror> for v1::RouteMirror {
    fn from(RouteMirror { target, share }: &RouteMirror) -> Self {
        Self {
            pool: target.pool().map(ToString::to_string),
            share: *share,
        }
    }
}

impl TryFrom<v1::RouteMirror> for RouteMirror {
    type Error = Invalid;

    fn try_from(v1::RouteMirror { pool, share }: v1::RouteMirror) -> Result<Self, Invalid> {
        if !(0.0..=1.0).contains(&share) {
            return Err(Invalid::new("share", "must be from 0 to 1"));
        }
        Ok(Self {
            target: target(pool),
            share,
        })
    }
}
