import pytest
from harness import PASSWORD

from sentiment_app.users import administration
from sentiment_app.users import service as users

ME, USERS = "/api/v1/users/me", "/api/v1/users"


def test_me_is_the_caller(client, ada, as_ada):
    assert client.get(ME, headers=as_ada).json["id"] == str(ada.id)


def test_profile_can_be_changed(client, ada, as_ada):
    answer = client.patch(ME, json={"email": "new@example.org", "current_password": PASSWORD}, headers=as_ada)
    assert answer.status_code == 200
    assert users.get(ada.id).email == "new@example.org"
    assert answer.json["updated_at"] >= answer.json["created_at"]


@pytest.mark.asvs("8.2.3", "15.3.3")
@pytest.mark.parametrize("field", ["is_superuser", "is_active", "id", "shoe_size"])
def test_unknown_fields_are_refused(client, as_ada, field):
    answer = client.patch(ME, json={field: True, "current_password": PASSWORD}, headers=as_ada)
    assert (answer.status_code, answer.json["errors"][0]["pointer"]) == (422, f"/{field}")


@pytest.mark.asvs("2.3.3")
def test_existing_username_is_refused_and_changes_nothing(client, make_user, ada, as_ada):
    make_user("bob")
    change = {"username": "BOB", "password": "another good one", "current_password": PASSWORD}
    assert client.patch(ME, json=change, headers=as_ada).status_code == 409
    assert users.authenticate("ada", PASSWORD)


@pytest.mark.asvs("6.2.3", "7.5.1")
@pytest.mark.parametrize(
    ("field", "new"), [("password", "another good one"), ("username", "eve"), ("email", "eve@example.org")]
)
def test_every_change_requires_the_current_password(client, ada, as_ada, field, new):
    missing = client.patch(ME, json={field: new}, headers=as_ada)
    wrong = client.patch(ME, json={field: new, "current_password": "wrong"}, headers=as_ada)
    assert (missing.status_code, wrong.status_code) == (422, 403)
    for answer in (missing, wrong):
        assert answer.json["errors"][0]["pointer"] == "/current_password"
    assert users.authenticate("ada", PASSWORD)
    assert users.get(ada.id).email == "ada@example.org"


def test_former_username_stays_reserved(client, make_user, ada, as_ada, sign_in):
    def rename(name, headers):
        change = {"username": name, "current_password": PASSWORD}
        return client.patch(ME, json=change, headers=headers).status_code

    as_bob = sign_in(make_user("bob"))
    assert rename("Ada2", as_ada) == 200
    with pytest.raises(users.TakenError):
        make_user("ADA")
    assert rename("ada", as_bob) == 409
    assert users.find("bob") is not None
    assert rename("ada", as_ada) == 200  # its owner may take it back
    assert rename("ada2", as_bob) == 409


def test_common_password_is_refused(client, as_ada):
    change = {"password": "iloveyou", "current_password": PASSWORD}
    answer = client.patch(ME, json=change, headers=as_ada)
    assert (answer.status_code, answer.json["errors"][0]["pointer"]) == (422, "/password")


@pytest.mark.asvs("6.2.2", "7.4.3")
def test_new_password_ends_other_sessions(client, ada, as_ada, sign_in):
    elsewhere = sign_in(ada)
    change = {"password": "another good one", "current_password": PASSWORD}
    assert client.patch(ME, json=change, headers=as_ada).status_code == 200
    assert client.get(ME, headers=as_ada).status_code == 200
    assert client.get(ME, headers=elsewhere).status_code == 401


@pytest.mark.asvs("8.2.1")
@pytest.mark.parametrize(("method", "path"), [("get", USERS), ("get", f"{USERS}/{{id}}"), ("patch", f"{USERS}/{{id}}")])
def test_only_administrators_see_other_users(client, ada, as_ada, method, path):
    answer = getattr(client, method)(path.format(id=ada.id), json={"is_active": False}, headers=as_ada)
    assert (answer.status_code, answer.mimetype) == (403, "application/problem+json")


@pytest.mark.asvs("8.3.2")
def test_demotion_takes_effect_at_once(client, admin, as_admin, make_user):
    administration.administer(make_user("other").id, {"is_superuser": True})
    assert client.get(USERS, headers=as_admin).status_code == 200
    administration.administer(admin.id, {"is_superuser": False})
    assert client.get(USERS, headers=as_admin).status_code == 403


@pytest.mark.asvs("6.3.2")
def test_pages_contain_every_user_once(client, make_user, as_admin):
    for number in range(6):
        make_user(f"user-{number}")
    names, cursor = [], None
    while True:
        query = {"limit": 3} | ({"cursor": cursor} if cursor else {})
        page = client.get(USERS, query_string=query, headers=as_admin).json
        names += [entry["username"] for entry in page["items"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert names == ["root", *(f"user-{number}" for number in range(6))]


@pytest.mark.parametrize("query", ["limit=0", "limit=101", "limit=x", "cursor=%00", "cursor=abc", "cursor=é", "page=2"])
def test_error_points_to_invalid_query(client, as_admin, query):
    answer = client.get(f"{USERS}?{query}", headers=as_admin)
    assert answer.status_code == 422
    error = answer.json["errors"][0]
    assert (error["in"], error["pointer"]) == ("query", "/" + query.partition("=")[0])


@pytest.mark.asvs("7.4.2", "8.3.2")
def test_deactivation_ends_sessions_at_once(client, ada, as_ada, as_admin):
    assert client.get(ME, headers=as_ada).status_code == 200
    answer = client.patch(f"{USERS}/{ada.id}", json={"is_active": False}, headers=as_admin)
    assert (answer.status_code, answer.json["is_active"]) == (200, False)
    assert client.get(ME, headers=as_ada).status_code == 401


@pytest.mark.asvs("7.4.2")
def test_reactivation_does_not_revive_sessions(client, ada, as_ada, as_admin, sign_in):
    for active in (False, True):
        client.patch(f"{USERS}/{ada.id}", json={"is_active": active}, headers=as_admin)
    assert client.get(ME, headers=as_ada).status_code == 401
    assert client.get(ME, headers=sign_in(ada)).status_code == 200


def test_administrators_cannot_deactivate_themselves(client, admin, as_admin):
    answer = client.patch(f"{USERS}/{admin.id}", json={"is_active": False}, headers=as_admin)
    assert answer.status_code == 409


@pytest.mark.asvs("8.2.3", "15.3.3", "15.3.5")
@pytest.mark.parametrize("body", [{}, {"is_active": "no"}, {"is_superuser": None}, {"username": "eve"}])
def test_administrators_change_only_rights(client, ada, as_admin, body):
    assert client.patch(f"{USERS}/{ada.id}", json=body, headers=as_admin).status_code == 422


@pytest.mark.parametrize("user_id", ["01a207b6-d1c0-7689-b6e9-5db24f80109f", "7", "me/x"])
def test_unknown_user_is_not_found(client, as_admin, user_id):
    assert client.get(f"{USERS}/{user_id}", headers=as_admin).status_code == 404
